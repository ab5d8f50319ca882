import assert from 'node:assert/strict'
import test from 'node:test'
import { type Entry, pathWith, trialCloud, versionFor } from './cloud.ts'
import { unsound } from './sound.ts'

test('methods and paths that are not there', async t => {
  const cloud = await trialCloud(t)
  const wrong: string[] = []
  const token = cloud.tokens.admin
  const say = (entry: Entry, method: string, path: string, faults: string[]) => {
    if (faults.length > 0) wrong.push(`${method} ${path} (${entry.service.name}): ${faults.join('; ')}`)
  }
  const nothing: Record<string, string> = {}

  await t.test('a method that a path has not', async () => {
    const paths = Map.groupBy(
      cloud.entries.filter(entry => entry.route),
      entry => `${entry.service.name} ${pathWith(entry, [nothing]).path}`,
    )
    for (const entries of paths.values()) {
      const entry = entries[0]!
      const { path } = pathWith(entry, [nothing])
      const has = new Set(entries.map(e => e.method))
      for (const method of ['POST', 'PUT', 'PATCH', 'DELETE', 'PROPFIND', 'OPTIONS'].filter(m => !has.has(m))) {
        const answer = await cloud.send(method, path, { token, headers: versionFor(entry) })
        const faults = unsound(entry, answer)
        if (![404, 405].includes(answer.status) && !covered(cloud.entries, method, path)) faults.push(`answered ${answer.status}`)
        if (answer.status === 405 && !answer.headers.allow) faults.push('no Allow')
        say(entry, method, path, faults)
      }
    }
    assert.deepEqual(wrong.splice(0), [])
  })

  await t.test('HEAD answers as GET does, without a body', async () => {
    const own = new Set(cloud.entries.filter(e => e.method === 'HEAD').map(e => e.path))
    for (const entry of cloud.entries.filter(e => e.route?.method === 'GET' && !own.has(e.path))) {
      const { path } = pathWith(entry, [cloud.owned[entry.service.name]!, cloud.shared[entry.service.name]!])
      const [head, get] = [
        await cloud.send('HEAD', path, { token, headers: versionFor(entry) }),
        await cloud.send('GET', path, { token, headers: versionFor(entry) }),
      ]
      const faults = unsound(entry, head, true)
      if (head.body !== '') faults.push('has a body')
      if (head.status !== get.status) faults.push(`answers ${head.status} where GET answers ${get.status}`)
      say(entry, 'HEAD', path, faults)
    }
    assert.deepEqual(wrong.splice(0), [])
  })

  await t.test('a path that is not there', async () => {
    for (const entry of cloud.entries.filter((e, i) => cloud.entries.findIndex(o => o.service === e.service) === i && e.route)) {
      const mount = entry.service.mounts[0]!.replace(/\/:.*/, '')
      for (const rest of ['/nothing', '/nothing/at/all', '/../etc/passwd', '/%00', '/😀', '//', `/${'a/'.repeat(500)}`]) {
        for (const method of ['GET', 'POST', 'DELETE', 'OPTIONS']) {
          const path = `${entry.service.prefix}${mount}${encodeURI(rest).replace('%2500', '%00')}`
          const answer = await cloud.send(method, path, {
            token,
            headers: versionFor(entry),
            body: method === 'POST' ? {} : undefined,
          })
          const faults = unsound(entry, answer)
          if (rest !== '//' && (answer.status < 400 || answer.status > 405)) faults.push(`answered ${answer.status}`)
          say(entry, method, path, faults)
        }
      }
    }
    assert.deepEqual(wrong.splice(0), [])
  })

  await t.test('outside of every service', async () => {
    for (const path of ['/nothing', '/nothing/at/all', '/computes/v2.1/servers', '/%', '/%00']) {
      const answer = await cloud.send('GET', path, { token })
      assert.equal(answer.status, 404, path)
      assert.equal(answer.body.error.code, 404, path)
    }
  })
})

/** Whether a route of this method matches the path by a wider pattern: `/servers/:id` has `/servers/detail` too. */
const covered = (entries: readonly Entry[], method: string, path: string): boolean =>
  entries.some(e => e.method === method && new RegExp(`^${e.service.prefix}${e.path.replace(/:\w+/g, '[^/]+')}$`).test(path))
