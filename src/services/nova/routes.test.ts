import assert from 'node:assert/strict'
import { test } from 'node:test'
import { FOREIGN } from '#kit/http/test.ts'
import { nova } from './service.ts'
import { computeCloud, IMAGE } from './testing.ts'

const at = (version: number) => ({ 'openstack-api-version': `compute 2.${version}` })
const UNKNOWN = 'f0000000-31e7-49b7-b260-868f441e862b'
const JUNK: unknown[] = [[], 'text', null, {}, { x: { y: ['\ud800', 2 ** 70] } }]

/** Routes of the API itself; consoles have pages. */
const routes = nova.routes.filter(route => !route.path.startsWith('/novnc') && !route.mounts?.includes(''))

async function withServer(t: Parameters<typeof computeCloud>[0]) {
  const cloud = await computeCloud(t)
  const body = { server: { name: 'web', flavorRef: 'f1', imageRef: IMAGE, networks: 'none' } }
  const { id } = (await cloud.call('POST /compute/v2.1/servers', { body, headers: at(37) })).body.server
  await cloud.settled()
  return { ...cloud, id: id as string }
}

const filled = (path: string, id: string): string => path.replaceAll(/:\w+|\*/g, encodeURIComponent(id))

test('no route answers 500 to nonsense, and every refusal wears the envelope', async t => {
  const { call, id } = await withServer(t)
  const tried = async (method: string, path: string, version: number, body?: unknown) => {
    const what = `${method} ${path} ${JSON.stringify(body)} at ${version}`
    const answer = await call(`${method} /compute/v2.1${path}`, { body, headers: at(version) })
    assert.ok(answer.status < 500 || answer.status === 501, `${what}: ${answer.status} ${JSON.stringify(answer.body)}`)
    if (answer.status < 400) return
    const [[name, fault]] = Object.entries(answer.body as object) as [[string, { code: number; message: string }]]
    assert.ok(fault.message.length > 0 && fault.code === answer.status, `${what}: ${name} ${JSON.stringify(fault)}`)
  }
  for (const { method, path, action, since = 1, until = 104 } of routes) {
    for (const version of new Set([since, Math.min(until, 104)])) {
      for (const name of [id, '-1', '\u{1f600}"\\']) {
        if (method === 'DELETE' && name === id) continue
        const bodies = method === 'POST' || method === 'PUT' ? (name === id || !path.includes(':') ? JUNK : [{}]) : [undefined]
        for (const junk of bodies) await tried(method, filled(path, name), version, action ? { [action]: junk } : junk)
        if (!path.includes(':')) break
      }
      if (method === 'GET') {
        for (const query of [
          'limit=x',
          'limit=-1',
          'marker=%00',
          'sort_key=x&sort_dir=y',
          'changes-since=x',
          'name=(',
          'ip=(',
          'x=1',
        ])
          await tried(method, `${filled(path, UNKNOWN)}?${query}`, version)
      }
    }
  }
})

test('a foreign project gets nothing of a server', async t => {
  const { call, id } = await withServer(t)
  for (const { method, path, action, since = 1, success } of routes.filter(route => route.path.startsWith('/servers/:id'))) {
    if (success === 410) continue
    const body = method === 'GET' || method === 'DELETE' ? undefined : action ? { [action]: null } : {}
    const answer = await call(`${method} /compute/v2.1${filled(path, id)}`, { as: FOREIGN, body, headers: at(since) })
    assert.ok(
      [403, 404, 410].includes(answer.status),
      `${method} ${path} ${action ?? ''}: ${answer.status} ${JSON.stringify(answer.body)}`,
    )
  }
})
