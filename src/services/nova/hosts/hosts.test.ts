import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ADMIN, MEMBER } from '#kit/http/test.ts'
import { computeCloud, IMAGE } from '../testing.ts'

const at = (version: string) => ({ 'openstack-api-version': `compute ${version}` })

test('services are listed with what is really up, disabled, forced down and deleted', async t => {
  const { call, hosts, settled } = await computeCloud(t, ['host1', 'host2'])
  const list = async (version = '2.53') =>
    (await call('GET /compute/v2.1/os-services?binary=nova-compute', { headers: at(version) })).body.services
  const all = (await call('GET /compute/v2.1/os-services', { headers: at('2.53') })).body.services
  assert.deepEqual(
    all.map((s: { binary: string; state: string }) => `${s.binary} ${s.state}`),
    ['nova-compute up', 'nova-compute up', 'nova-conductor up', 'nova-scheduler up'],
  )
  assert.equal((await call('GET /compute/v2.1/os-services', { as: MEMBER })).status, 403)
  assert.equal(typeof (await list('2.1'))[0].id, 'number')
  const [{ id }] = await list()
  const put = (body: object, version = '2.53', path = id) =>
    call(`PUT /compute/v2.1/os-services/${path}`, { body, headers: at(version) })
  assert.equal((await put({ status: 'disabled', disabled_reason: 'mending' })).body.service.disabled_reason, 'mending')
  assert.equal((await put({ disabled_reason: 'x' })).status, 400)
  assert.equal((await put({})).status, 400)
  assert.equal((await put({ status: 'enabled' }, '2.53', 'nonsense')).status, 400)
  const create = async () => {
    const body = { server: { name: 'x', flavorRef: 'f1', imageRef: IMAGE, networks: 'none' } }
    const { id } = (await call('POST /compute/v2.1/servers', { body, headers: at('2.37') })).body.server
    await settled()
    return (await call(`GET /compute/v2.1/servers/${id}`)).body.server
  }
  assert.equal((await create())['OS-EXT-SRV-ATTR:host'], 'host2')
  assert.equal(
    (await put({ host: 'host2', binary: 'nova-compute', forced_down: true }, '2.11', 'force-down')).body.service.forced_down,
    true,
  )
  assert.match((await create()).fault.message, /host1: its service is disabled \(mending\).*host2: its service is down/)
  assert.equal((await put({ host: 'host1', binary: 'nova-compute' }, '2.1', 'enable')).body.service.status, 'enabled')
  assert.equal((await create())['OS-EXT-SRV-ATTR:host'], 'host1')
  await hosts[1]!.close()
  const [first, second] = await list()
  assert.deepEqual([first.state, second.state], ['up', 'down'])
  assert.equal((await call(`DELETE /compute/v2.1/os-services/${id}`, { headers: at('2.53') })).status, 409)
})

test('hypervisors show what is used until 2.87, their uptime from 2.88', async t => {
  const { call, settled } = await computeCloud(t, ['host1', 'host2'])
  const body = { server: { name: 'x', flavorRef: 'f1', imageRef: IMAGE, networks: 'none' } }
  await call('POST /compute/v2.1/servers', { body, headers: at('2.37') })
  await settled()
  const get = (path: string, version: string, as = ADMIN) =>
    call(`GET /compute/v2.1/os-hypervisors${path}`, { headers: at(version), as })
  const old = (await get('/detail', '2.1')).body.hypervisors
  assert.equal(
    old.reduce((n: number, h: { memory_mb_used: number }) => n + h.memory_mb_used, 0),
    512,
  )
  assert.equal(typeof old[0].cpu_info, 'string')
  assert.equal((await get('/statistics', '2.1')).body.hypervisor_statistics.running_vms, 1)
  assert.equal((await get('/statistics', '2.88')).status, 404)
  const [slim] = (await get('/detail', '2.88')).body.hypervisors
  assert.match(slim.uptime, /load average/)
  assert.ok(!('vcpus' in slim))
  assert.equal((await get(`/${slim.id}`, '2.88')).body.hypervisor.id, slim.id)
  assert.equal((await get('/nonsense', '2.53')).status, 400)
  assert.equal((await get('/999999', '2.1')).status, 404)
  assert.equal((await get('/host1/servers', '2.1')).status, 200)
  assert.equal((await get('/host1/servers', '2.53')).status, 404)
  const page = (await get('?limit=1', '2.53')).body
  assert.match(page.hypervisors_links[0].href, /limit=1&marker=/)
  assert.equal((await get('?hypervisor_hostname_pattern=host2&with_servers=true', '2.53')).body.hypervisors.length, 1)
  assert.equal((await get('', '2.1', MEMBER)).status, 403)
})

test('quotas are shown, changed within what is used, and set back; limits say what is left', async t => {
  const { call, settled } = await computeCloud(t)
  const body = { server: { name: 'x', flavorRef: 'f1', imageRef: IMAGE, networks: 'none' } }
  await call('POST /compute/v2.1/servers', { as: MEMBER, body, headers: at('2.37') })
  await settled()
  const put = (quota_set: object) => call('PUT /compute/v2.1/os-quota-sets/p1', { body: { quota_set } })
  assert.equal((await put({ instances: 0 })).status, 400)
  assert.equal((await put({ instances: 0, force: true })).body.quota_set.instances, 0)
  assert.equal((await put({ instances: '5', nonsense: 1 })).status, 400)
  assert.equal((await put({ instances: '5' })).body.quota_set.instances, 5)
  const detail = (await call('GET /compute/v2.1/os-quota-sets/p1/detail', { as: MEMBER, headers: at('2.57') })).body.quota_set
  assert.deepEqual(detail.instances, { limit: 5, in_use: 1, reserved: 0 })
  assert.ok(!('injected_files' in detail))
  assert.equal((await call('GET /compute/v2.1/os-quota-sets/p2', { as: MEMBER })).status, 403)
  const limits = (await call('GET /compute/v2.1/limits', { as: MEMBER, headers: at('2.57') })).body.limits.absolute
  assert.equal(limits.maxTotalInstances, 5)
  assert.equal(limits.totalRAMUsed, 512)
  assert.equal((await call('DELETE /compute/v2.1/os-quota-sets/p1')).status, 202)
  assert.equal((await call('GET /compute/v2.1/os-quota-sets/p1')).body.quota_set.instances, 10)
  await call('PUT /compute/v2.1/os-quota-class-sets/default', { body: { quota_class_set: { cores: 7 } } })
  assert.equal((await call('GET /compute/v2.1/os-quota-sets/p1/defaults')).body.quota_set.cores, 7)
})
