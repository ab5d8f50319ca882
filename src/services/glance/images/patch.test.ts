import assert from 'node:assert/strict'
import { test } from 'node:test'
import { FOREIGN, MEMBER } from '#kit/http/test.ts'
import { imageCloud } from '../testing.ts'
import { changesOf } from './patch.route.ts'

const as = MEMBER
const V21 = { 'content-type': 'application/openstack-images-v2.1-json-patch' }
const V20 = { 'content-type': 'application/openstack-images-v2.0-json-patch' }

test('an image is patched in both forms, all operations or none', async t => {
  const { call, image } = await imageCloud(t)
  const { id } = await image({ colour: 'red' }, { as })
  const patch = (body: unknown, headers = V21, who = as) => call(`PATCH /image/v2/images/${id}`, { as: who, headers, body })
  const done = await patch([
    { op: 'replace', path: '/name', value: 'new' },
    { op: 'add', path: '/a~1b~0c', value: 'slash' },
    { op: 'remove', path: '/colour' },
    { op: 'replace', path: '/tags', value: ['x', 'y', 'x'] },
  ])
  assert.equal(done.status, 200)
  assert.deepEqual(
    [done.body.name, done.body['a/b~c'], done.body.colour, done.body.tags],
    ['new', 'slash', undefined, ['x', 'y']],
  )
  assert.equal((await patch([{ replace: '/name', value: 'old form' }], V20)).body.name, 'old form')
  assert.equal((await patch([{ add: '/name', value: 'x' }], V20)).status, 409)
  const half = await patch([
    { op: 'replace', path: '/name', value: 'never' },
    { op: 'remove', path: '/nothing' },
  ])
  assert.equal(half.status, 409)
  assert.equal((await call(`GET /image/v2/images/${id}`, { as })).body.name, 'old form')
  for (const [body, status] of [
    [[{ op: 'replace', path: '/status', value: 'active' }], 403],
    [[{ op: 'add', path: '/os_glance_x', value: 'y' }], 403],
    [[{ op: 'remove', path: '/name' }], 403],
    [[{ op: 'replace', path: '/owner', value: 'p2' }], 403],
    [[{ op: 'replace', path: '/visibility', value: 'public' }], 403],
    [[{ op: 'replace', path: '/min_ram', value: -1 }], 400],
    [[{ op: 'add', path: '/x', value: 7 }], 400],
    [[{ op: 'add', path: '//x', value: 'y' }], 400],
    [{ op: 'add', path: '/x', value: 'y' }, 400],
  ] as [unknown, number][]) {
    assert.equal((await patch(body)).status, status, JSON.stringify(body))
  }
  assert.equal((await patch([], { 'content-type': 'application/json' })).status, 415)
  assert.equal((await patch([], V21, FOREIGN)).status, 404)
})

test('pointers', () => {
  assert.throws(() => changesOf([{ op: 'add', path: '/a~2', value: '' }], 'v2.1'), /escape/)
  assert.throws(() => changesOf([{ op: 'add', path: 'a', value: '' }], 'v2.1'), /does not start/)
  assert.deepEqual(changesOf([{ op: 'remove', path: '/locations/0' }], 'v2.1')[0]!.at, '0')
})

test('sharing: a member sees the image, and lists it once it accepted', async t => {
  const { call, image } = await imageCloud(t)
  const { id } = await image({}, { as })
  const path = `/image/v2/images/${id}/members`
  assert.equal((await call(`POST ${path}`, { as, body: { member: 'p2' } })).status, 200)
  assert.equal((await call(`POST ${path}`, { as, body: { member: 'p2' } })).status, 409)
  const listed = async () => (await call('GET /image/v2/images', { as: FOREIGN })).body.images.map((i: { id: string }) => i.id)
  assert.equal((await call(`GET /image/v2/images/${id}`, { as: FOREIGN })).status, 200)
  assert.deepEqual(await listed(), [])
  assert.equal((await call(`PUT ${path}/p2`, { as, body: { status: 'accepted' } })).status, 403)
  assert.equal((await call(`PUT ${path}/p2`, { as: FOREIGN, body: { status: 'accepted' } })).status, 200)
  assert.deepEqual(await listed(), [id])
  assert.equal((await call(`DELETE /image/v2/images/${id}`, { as: FOREIGN })).status, 403)
  assert.equal((await call(`DELETE ${path}/p2`, { as: FOREIGN })).status, 403)
  assert.equal((await call(`DELETE ${path}/p2`, { as })).status, 204)
  assert.equal((await call(`GET ${path}/p2`, { as })).status, 404)
  assert.equal((await call(`GET /image/v2/images/${id}`, { as: FOREIGN })).status, 404)
})
