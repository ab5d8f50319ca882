import assert from 'node:assert/strict'
import test from 'node:test'
import { type Entry, pathWith, trialCloud, versionFor } from './cloud.ts'
import { unsound } from './sound.ts'

/** What stands in the header; undefined: there is none. */
const BAD = (expired: string): Record<string, string | undefined> => ({
  none: undefined,
  empty: '',
  expired,
  garbage: 'gAAAAABgarbage',
  'not Base64': '{}%%',
  long: 'g'.repeat(7000),
  changed: `${expired.slice(0, -2)}AA`,
})

test('every route that is not public refuses who has no valid token', async t => {
  const cloud = await trialCloud(t)
  const wrong: string[] = []
  const tokens = BAD(cloud.tokens.expired)
  const isPublic = ({ route }: Entry) => route?.auth === 'none' || route?.auth === 'optional'
  const closed = cloud.entries.filter(entry => !isPublic(entry))
  assert.ok(closed.length > 400, 'the table of routes is the real one')
  for (const entry of closed) {
    const { path } = pathWith(entry, [cloud.owned[entry.service.name]!, cloud.shared[entry.service.name]!])
    for (const [name, token] of Object.entries(tokens)) {
      const headers = { ...versionFor(entry), ...(token !== undefined && { 'x-auth-token': token }) }
      const body = entry.route?.action ? { [entry.route.action]: null } : entry.method === 'GET' ? undefined : {}
      const answer = await cloud.send(entry.method, path, { headers, body })
      const faults = unsound(entry, answer, entry.method === 'HEAD')
      if (answer.status !== 401) faults.push(`answered ${answer.status}`)
      else if (!answer.headers['www-authenticate']) faults.push('no WWW-Authenticate')
      if (faults.length > 0) wrong.push(`${entry.service.name} ${entry.key} with token ${name}: ${faults.join('; ')}`)
    }
  }
  assert.deepEqual(wrong, [])
})
