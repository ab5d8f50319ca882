import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { readdirSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type TestContext, test } from 'node:test'
import { ADMIN, MEMBER } from '#kit/http/test.ts'
import { cacheFill } from '../cache/cache.ts'
import { imageCloud } from '../testing.ts'

const as = MEMBER

/** A web server with one file; `/loop` redirects to itself, `/away` to a port that is not allowed. */
async function web(t: TestContext, content: string): Promise<string> {
  const server = createServer((req, res) => {
    if (req.url === '/away') res.writeHead(302, { location: 'http://127.0.0.1:1/' }).end()
    else if (req.url === '/loop') res.writeHead(302, { location: '/loop' }).end()
    else if (req.url !== '/image') res.writeHead(404).end()
    else res.writeHead(200, { 'content-length': content.length }).end(req.method === 'HEAD' ? undefined : content)
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.after(() => server.close())
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

const OPEN = 'import_filtering_opts: { allowed_ports: [] , disallowed_ports: [1] }'

test('staged bytes are imported to several stores; another store gets a copy', async t => {
  const stores = 'stores: [{ id: a, path: a }, { id: b, container: b, segment_size: 2 }, { id: c, path: c }]'
  const { call, image, folder, settled } = await imageCloud(t, stores)
  const { id } = await image({}, { as })
  const staged = await fetch(`${(await call('GET /image/')).body.versions[0].links[0].href}images/${id}/stage`, {
    method: 'PUT',
    headers: { 'content-type': 'application/octet-stream', 'x-auth-token': JSON.stringify({ ...as, userDomainId: 'd' }) },
    body: 'hello',
  })
  assert.equal(staged.status, 204)
  assert.equal((await call(`GET /image/v2/images/${id}`, { as })).body.status, 'uploading')
  const start = (body: unknown, who = as) => call(`POST /image/v2/images/${id}/import`, { as: who, body })
  assert.equal((await start({ method: { name: 'web-download', uri: 'http://x/' } })).status, 409)
  assert.equal((await start({ method: { name: 'glance-direct' }, stores: ['nowhere'] })).status, 409)
  assert.equal((await start({ method: { name: 'glance-direct' }, stores: ['a', 'b'] })).status, 202)
  await settled()
  const { body } = await call(`GET /image/v2/images/${id}`, { as })
  assert.deepEqual([body.status, body.stores, body.size, body.os_glance_failed_import], ['active', 'a,b', 5, ''])
  assert.deepEqual(readdirSync(`${folder}/images/staging`), [])
  const { tasks } = (await call(`GET /image/v2/images/${id}/tasks`, { as })).body
  assert.deepEqual([tasks.length, tasks[0].status, tasks[0].type], [1, 'success', 'api_image_import'])
  assert.equal((await start({ method: { name: 'copy-image' }, stores: ['c'] })).status, 403)
  assert.equal((await start({ method: { name: 'copy-image' }, stores: ['a'] }, ADMIN)).status, 400)
  assert.equal((await start({ method: { name: 'copy-image' }, all_stores: true }, ADMIN)).status, 202)
  await settled()
  assert.equal((await call(`GET /image/v2/images/${id}`, { as })).body.stores, 'a,b,c')
  assert.equal((await call(`GET /image/v2/images/${id}/file`, { as })).body, 'hello')
})

test('web-download: from allowed places alone, and a failure says why', async t => {
  const { call, image, folder, settled } = await imageCloud(t, OPEN)
  const at = await web(t, 'some bytes')
  const run = async (uri: string, fields = {}) => {
    const { id } = await image(fields, { as })
    const { status } = await call(`POST /image/v2/images/${id}/import`, { as, body: { method: { name: 'web-download', uri } } })
    await settled()
    const { tasks } = (await call(`GET /image/v2/images/${id}/tasks`, { as })).body
    return { status, image: (await call(`GET /image/v2/images/${id}`, { as })).body, task: tasks[0] }
  }
  const good = await run(`${at}/image`)
  assert.deepEqual([good.status, good.image.status, good.image.size], [202, 'active', 10])
  const absent = await run(`${at}/absent`)
  assert.deepEqual([absent.image.status, absent.task.status], ['queued', 'failure'])
  assert.match(absent.task.message, /404/)
  assert.match((await run(`${at}/away`)).task.message, /filtering/)
  assert.match((await run(`${at}/loop`)).task.message, /redirects/)
  assert.match((await run(`${at}/image`, { disk_format: 'qcow2' })).task.message, /not qcow2/)
  assert.equal((await run('http://169.254.169.254/')).status, 400)
  assert.equal((await run('file:///etc/passwd')).status, 400)
  assert.deepEqual(readdirSync(`${folder}/images`).length, 1)
})

test('a URL may be a location of an image', async t => {
  const { call, image } = await imageCloud(t, OPEN)
  const at = await web(t, 'some bytes')
  const { id } = await image({}, { as })
  const headers = { 'content-type': 'application/openstack-images-v2.1-json-patch' }
  const patch = (body: unknown) => call(`PATCH /image/v2/images/${id}`, { as, headers, body })
  assert.equal((await patch([{ op: 'add', path: '/locations/-', value: { url: 'gopher://x', metadata: {} } }])).status, 400)
  assert.equal((await patch([{ op: 'add', path: '/locations/-', value: { url: `${at}/absent`, metadata: {} } }])).status, 400)
  const { body } = await patch([{ op: 'add', path: '/locations/-', value: { url: `${at}/image`, metadata: { a: 'b' } } }])
  assert.deepEqual(
    [body.status, body.size, body.locations[0].url, body.locations[0].metadata.a],
    ['active', 10, `${at}/image`, 'b'],
  )
  const part = await call(`GET /image/v2/images/${id}/file`, { as, headers: { range: 'bytes=5-6' } })
  assert.deepEqual([part.status, part.body], [206, 'by'])
  assert.equal((await patch([{ op: 'remove', path: '/locations/0' }])).status, 403)
  assert.equal((await patch([{ op: 'replace', path: '/locations', value: [{ url: `${at}/other`, metadata: {} }] }])).status, 400)
})

test('the location API reads and hashes what a URL has, and refuses what is not as was said', async t => {
  const { call, image, settled } = await imageCloud(t, OPEN)
  const at = await web(t, 'some bytes')
  const add = async (value?: string) => {
    const { id } = await image({}, { as })
    const validation_data = value && { os_hash_algo: 'sha256', os_hash_value: value }
    const { status } = await call(`POST /image/v2/images/${id}/locations`, { as, body: { url: `${at}/image`, validation_data } })
    await settled()
    return { id, status, ...(await call(`GET /image/v2/images/${id}`, { as })).body }
  }
  const good = await add('4b8d1f9a'.repeat(8)) // some other bytes
  assert.deepEqual([good.status, good.os_hash_value], ['queued', null])
  const { status, checksum, id } = await add()
  assert.deepEqual([status, checksum], ['active', createHash('md5').update('some bytes').digest('hex')])
  assert.equal((await call(`GET /image/v2/images/${id}/locations`, { as })).status, 403)
  assert.equal((await call(`GET /image/v2/images/${id}/locations`)).body[0].url, `${at}/image`)
})

test('images are cached by hand and read from there', async t => {
  const { call, image, upload, env } = await imageCloud(t)
  const { id } = await image({}, { as })
  assert.equal((await call(`PUT /image/v2/cache/${id}`)).status, 400)
  await upload(id, 'bytes', { as })
  assert.equal((await call('GET /image/v2/cache', { as })).status, 403)
  assert.equal((await call(`PUT /image/v2/cache/${id}`)).status, 202)
  await cacheFill(env)
  assert.equal((await call(`GET /image/v2/images/${id}/file`, { as })).body, 'bytes')
  const { body } = await call('GET /image/v2/cache')
  assert.deepEqual([body.queued_images, body.cached_images[0].image_id, body.cached_images[0].hits], [[], id, 1])
  assert.equal((await call('DELETE /image/v2/cache', { headers: { 'x-image-cache-clear-target': 'x' } })).status, 400)
  assert.equal((await call('DELETE /image/v2/cache')).status, 204)
  assert.deepEqual((await call('GET /image/v2/cache')).body.cached_images, [])
  assert.equal((await call('DELETE /image/v2/cache/nothing')).status, 404)
})
