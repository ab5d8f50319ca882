import assert from 'node:assert/strict'
import test from 'node:test'
import { bodyFor, bodyIsTold } from './bodies.ts'
import { type Entry, pathWith, type TrialCloud, trialCloud, versionFor } from './cloud.ts'
import { unsound } from './sound.ts'

/** 410: what the API once had and nobody has any more. */
const REFUSALS = [403, 404, 410]
const READS = ['GET', 'HEAD']

test('a foreign tenant reaches nothing of another project, by any route', async t => {
  const cloud = await trialCloud(t)
  const before = await portrait(cloud)
  const wrong: string[] = []
  const say = (entry: Pick<Entry, 'service' | 'key'>, fault: string) => wrong.push(`${entry.service.name} ${entry.key}: ${fault}`)

  await t.test('with ids of another project in the path', async t => {
    // Tried with an id that is nothing's: a name to learn, in src/services/*/tried.ts.
    const unknown = new Set<string>()
    for (const entry of cloud.entries) {
      if (!/[:*]/.test(entry.path) || entry.route?.auth === 'none') continue
      const { service } = entry
      const { path, lacking } = pathWith(entry, [cloud.owned[service.name]!, cloud.shared[service.name]!])
      for (const key of lacking) unknown.add(`${service.name} ${key}`)
      const answer = await cloud.send(entry.method, path, {
        token: cloud.tokens.foreign,
        headers: { ...versionFor(entry), ...(entry.route?.media && { 'content-type': entry.route.media[0]! }) },
        body: bodyFor(cloud, entry),
      })
      for (const fault of unsound(entry, answer, entry.method === 'HEAD')) say(entry, fault)
      // Where nobody said what a sane body is, the one out of the schema may be refused for itself.
      const refusals = lacking.length === 0 && bodyIsTold(cloud, entry) ? REFUSALS : [...REFUSALS, 400]
      const isShared = pathWith(entry, [cloud.shared[service.name]!]).lacking.length === 0
      const may = READS.includes(entry.method) && isShared
      if (!may && !entry.tried.open?.[entry.key] && !refusals.includes(answer.status))
        say(entry, `answered ${answer.status} ${JSON.stringify(answer.body).slice(0, 200)}`)
    }
    if (unknown.size > 0) t.diagnostic(`no id is known for ${[...unknown].join(', ')}`)
    assert.deepEqual(wrong.splice(0), [])
  })

  await t.test('with ids of another project in bodies and queries', async () => {
    for (const entry of cloud.entries.filter((e, i) => cloud.entries.findIndex(o => o.service === e.service) === i)) {
      const { service, tried } = entry
      const ids = idsOfAll(cloud, service.name)
      for (const [key, body] of tried.borrowing?.(ids, cloud.foreignProjectId) ?? []) {
        const [method, path] = key.split(' ') as [string, string]
        const headers = versionFor({ service })
        const answer = await cloud.send(method, service.prefix + path, { token: cloud.tokens.foreign, body, headers })
        for (const fault of unsound(entry, answer)) say({ service, key }, fault)
        if (method === 'GET' ? shows(answer.body, cloud, service.name) : answer.status < 400)
          say({ service, key }, `answered ${answer.status} ${JSON.stringify(answer.body).slice(0, 300)}`)
      }
    }
    assert.deepEqual(wrong.splice(0), [])
  })

  await t.test('in lists', async () => {
    for (const entry of cloud.entries) {
      if (entry.method !== 'GET' || /[:*]/.test(entry.path)) continue
      const headers = versionFor(entry)
      const answer = await cloud.send('GET', pathWith(entry, []).path, { token: cloud.tokens.foreign, headers })
      for (const fault of unsound(entry, answer)) say(entry, fault)
      if (shows(answer.body, cloud, entry.service.name)) say(entry, `shows ${JSON.stringify(answer.body).slice(0, 300)}`)
    }
    assert.deepEqual(wrong.splice(0), [])
  })

  assert.deepEqual(await portrait(cloud), before, 'nothing of the owner has changed')
})

const UUID = /[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}/

/** Whether an answer has an id of the owner's in it that is no shared one. Ids that are words say nothing. */
function shows(body: unknown, cloud: TrialCloud, service: string): boolean {
  const text = JSON.stringify(body) ?? ''
  const shared = new Set(Object.values(cloud.shared[service]!))
  return Object.entries(cloud.owned[service]!).some(([, id]) => UUID.test(id) && !shared.has(id) && text.includes(id))
}

/** The service's own ids, and those of the others with the service's name before them. */
function idsOfAll(cloud: TrialCloud, service: string): Record<string, string> {
  const ids: Record<string, string> = {}
  for (const all of [cloud.shared, cloud.owned]) {
    for (const [name, some] of Object.entries(all))
      for (const [key, id] of Object.entries(some)) ids[name === service ? key : `${name} ${key}`] = id
  }
  return ids
}

/** What the owner's things look like to the owner and to the administrator: every GET with an id. */
async function portrait(cloud: TrialCloud): Promise<Record<string, unknown>> {
  const seen: Record<string, unknown> = {}
  for (const entry of cloud.entries) {
    if (entry.method !== 'GET' || !entry.path.includes(':')) continue
    const { path, lacking } = pathWith(entry, [cloud.owned[entry.service.name]!])
    if (lacking.length > 0) continue
    for (const token of [cloud.tokens.owner, cloud.tokens.admin]) {
      const answer = await cloud.send('GET', path, { token, headers: versionFor(entry) })
      seen[`${entry.service.name} ${entry.key} ${token === cloud.tokens.admin ? 'admin' : 'owner'}`] = [
        answer.status,
        answer.status >= 400 || VOLATILE.test(entry.key) ? null : answer.body,
      ]
    }
  }
  return seen
}

/** What changes by itself. */
const VOLATILE = /diagnostics|os-instance-actions|tasks|agents|tenant-usage|resource_providers.*usages/
