import assert from 'node:assert/strict'
import { test } from 'node:test'
import { identityCloud } from '../testing/cloud.ts'

for (const whole of [true, false]) {
  test(`a catalog has what is associated with its project, and ${whole ? 'everything' : 'nothing'} where nothing is`, async t => {
    const cloud = await identityCloud(t, `endpoint_filter: { return_all_endpoints_if_no_filter: ${whole} }`)
    const { call } = cloud
    const token = await cloud.admin()
    const make = async (path: string, one: string, body: object) =>
      (await call(`POST /${path}`, { token, body: { [one]: body } })).body[one].id as string
    const seen = async (scope: unknown = { project: { id: cloud.adminProjectId } }) => {
      const { catalog } = (await call('GET /auth/catalog', { token: await cloud.login('admin', 'sesame', scope) })).body
      return catalog.map((entry: { name: string; endpoints: unknown[] }) => `${entry.name} ${entry.endpoints.length}`).sort()
    }
    const put = async (path: string) => assert.equal((await call(`PUT ${path}`, { token })).status, 204)
    const added = whole ? ['far 2', 'near 1', 'none 0'] : []
    const all = [...(await seen()), ...added].sort()
    const system = [...(await seen({ system: { all: true } })), ...added].sort()
    assert.equal(all.length > added.length, whole)

    const far = await make('services', 'service', { type: 'far', name: 'far' })
    const near = await make('services', 'service', { type: 'near', name: 'near' })
    await make('services', 'service', { type: 'none', name: 'none' })
    const at = (service_id: string, name: string, more: object = {}) =>
      make('endpoints', 'endpoint', { service_id, interface: name, url: 'http://x', ...more })
    const [one] = [await at(far, 'public'), await at(far, 'internal'), await at(near, 'public')]
    const away = await at(near, 'admin', { enabled: false })
    assert.deepEqual(await seen(), all)
    assert.deepEqual(await seen({ system: { all: true } }), system)

    const project = `/OS-EP-FILTER/projects/${cloud.adminProjectId}`
    const group = async (filters: object) => {
      const id = await make('OS-EP-FILTER/endpoint_groups', 'endpoint_group', { name: JSON.stringify(filters), filters })
      return `/OS-EP-FILTER/endpoint_groups/${id}/projects/${cloud.adminProjectId}`
    }
    const nothing = await group({ region_id: 'nowhere' })
    await put(nothing)
    assert.deepEqual(await seen(), all, 'a group in which nothing is')
    await put(`${project}/endpoints/${away}`)
    assert.deepEqual(await seen(), [], 'an endpoint that is disabled')
    await put(`${project}/endpoints/${one}`)
    assert.deepEqual(await seen(), ['far 1'])
    const public_ = await group({ interface: 'public', service_id: near })
    await put(public_)
    assert.deepEqual(await seen(), ['far 1', 'near 1'])
    assert.deepEqual(await seen({ system: { all: true } }), system, 'another scope')
    for (const path of [public_, nothing, `${project}/endpoints/${one}`, `${project}/endpoints/${away}`])
      assert.equal((await call(`DELETE ${path}`, { token })).status, 204)
    assert.deepEqual(await seen(), all)
  })
}
