import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { test } from 'node:test'
import { FOREIGN, MEMBER } from '#kit/http/test.ts'
import { IN_OBJECTS, imageCloud } from '../testing.ts'

const as = MEMBER

for (const yaml of ['', IN_OBJECTS])
  test(`an image is created, filled, shown, read in ranges and deleted: ${yaml || 'a folder'}`, async t => {
    const { call, image, upload, files } = await imageCloud(t, yaml)
    const { id } = await image({ os_distro: 'debian', tags: ['x', 'x'] }, { as })
    assert.equal((await call(`GET /image/v2/images/${id}/file`, { as })).status, 204)
    const data = 'x'.repeat(1000)
    assert.equal((await upload(id, data, { as })).status, 204)
    assert.equal((await upload(id, data, { as })).status, 409)
    const { body } = await call(`GET /image/v2/images/${id}`, { as })
    assert.equal(body.status, 'active')
    assert.equal(body.size, 1000)
    assert.equal(body.virtual_size, 1000)
    assert.equal(body.checksum, createHash('md5').update(data).digest('hex'))
    assert.equal(body.os_hash_value, createHash('sha512').update(data).digest('hex'))
    assert.deepEqual([body.os_distro, body.tags, body.owner, body.visibility], ['debian', ['x'], 'p1', 'shared'])
    const part = await call(`GET /image/v2/images/${id}/file`, { as, headers: { range: 'bytes=990-2000' } })
    assert.deepEqual([part.status, part.headers.get('content-range'), part.body.length], [206, 'bytes 990-999/1000', 10])
    assert.equal((await call(`GET /image/v2/images/${id}/file`, { as, headers: { range: 'bytes=1000-' } })).status, 416)
    const whole = await call(`GET /image/v2/images/${id}/file`, { as })
    assert.deepEqual([whole.status, whole.body, whole.headers.get('content-md5')], [200, data, body.checksum])
    assert.equal((await call(`GET /image/v2/images/${id}`, { as: FOREIGN })).status, 404)
    assert.equal((await call(`DELETE /image/v2/images/${id}`, { as: FOREIGN })).status, 404)
    assert.equal((await call(`DELETE /image/v2/images/${id}`, { as })).status, 204)
    assert.equal((await call(`GET /image/v2/images/${id}`, { as })).status, 404)
    assert.deepEqual(await files(), [])
  })

test('administrators of the system are outside of any project: images are none of theirs', async t => {
  const { call, image } = await imageCloud(t)
  const { id } = await image({}, { as })
  const system = { systemScope: true, roles: ['admin', 'member', 'reader'] }
  const on = `/image/v2/images/${id}`
  for (const what of [`GET ${on}`, `DELETE ${on}`, `POST ${on}/actions/deactivate`, `GET ${on}/file`, `DELETE ${on}/members/p2`])
    assert.equal((await call(what, { as: system })).status, 404, what)
  assert.equal((await call(`GET ${on}`)).status, 200)
})

for (const yaml of ['', IN_OBJECTS])
  test(`a qcow2 with a backing file is refused, and nothing of it is left: ${yaml || 'a folder'}`, async t => {
    const { call, image, upload, files } = await imageCloud(t, yaml)
    const { id } = await image({ disk_format: 'qcow2' }, { as })
    const header = Buffer.alloc(512)
    header.write('QFI\u{fb}', 0, 'latin1')
    header.writeUInt32BE(2, 4)
    header.writeBigUInt64BE(200n, 8)
    header.writeUInt32BE(11, 16)
    header.write('/etc/shadow', 200, 'latin1')
    const answer = await upload(id, header, { as })
    assert.equal(answer.status, 415)
    assert.match(answer.body.message, /backing file/)
    const { body } = await call(`GET /image/v2/images/${id}`, { as })
    assert.deepEqual([body.status, body.size], ['queued', null])
    assert.deepEqual(await files(), [])
  })
