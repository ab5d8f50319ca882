import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type CloudOptions, computeCloud, IMAGE } from '../testing.ts'

const at = (version: string) => ({ 'openstack-api-version': `compute ${version}` })
const NEW = { name: 'web', flavorRef: 'f1', imageRef: IMAGE, networks: 'none' as unknown }

type Test = Parameters<typeof computeCloud>[0]

/** A cloud whose project has no limits, and ways to make servers in it. */
async function cloudOf(t: Test, options: CloudOptions = {}) {
  const cloud = await computeCloud(t, ['host1'], options)
  const quota = { instances: -1, cores: -1, ram: -1 }
  await cloud.call('PUT /compute/v2.1/os-quota-sets/admin-project', { body: { quota_set: quota } })
  const create = (change: object = {}) =>
    cloud.call('POST /compute/v2.1/servers', { body: { server: { ...NEW, ...change } }, headers: at('2.42') })
  const servers = async () => (await cloud.call('GET /compute/v2.1/servers/detail')).body.servers
  return { ...cloud, create, servers }
}

async function networkOf(call: Awaited<ReturnType<typeof cloudOf>>['call'], cidr: string): Promise<string> {
  const { network } = (await call('POST /networking/v2.0/networks', { body: { network: { name: 'n' } } })).body
  const subnet = { network_id: network.id, ip_version: 4, cidr, enable_dhcp: false }
  const made = await call('POST /networking/v2.0/subnets', { body: { subnet } })
  assert.equal(made.status, 201, JSON.stringify(made.body))
  return network.id
}

/** Statuses with how often each is there. */
const tally = (servers: { status: string }[]): Record<string, number> =>
  Object.fromEntries([...Map.groupBy(servers, s => s.status)].map(([status, its]) => [status, its.length]))

test('a hundred creates for the last place on a host give exactly one', async t => {
  const { create, settled, servers, hosts, db } = await cloudOf(t, { size: { memoryMb: 1024 } })
  const answers = await Promise.all(Array.from({ length: 100 }, () => create()))
  assert.ok(answers.every(answer => answer.status === 202))
  await settled()
  const all = await servers()
  assert.deepEqual(tally(all), { ACTIVE: 1, ERROR: 99 })
  const failed = all.find((s: { status: string }) => s.status === 'ERROR')
  assert.match(failed.fault.message, /No valid host was found.*none has room/)
  assert.equal(hosts[0]!.guests.size, 1)
  const taken = await db.read.selectFrom('placement.allocations').select('used').where('class', '=', 'MEMORY_MB').execute()
  assert.deepEqual(taken, [{ used: 512 }])
})

test('a hundred creates for the last address give exactly one, and the others say why', async t => {
  const { create, settled, servers, hosts, call } = await cloudOf(t, { settings: { vif_plugging_timeout: 0 } })
  const network = await networkOf(call, '10.9.0.0/30')
  await Promise.all(Array.from({ length: 100 }, () => create({ networks: [{ uuid: network }] })))
  await settled()
  const all = await servers()
  const { ACTIVE = 0, ERROR = 0 } = tally(all)
  assert.deepEqual([ACTIVE, ERROR], [1, all.length - 1])
  const failed = all.find((s: { status: string }) => s.status === 'ERROR')
  assert.match(failed.fault.message, /No more IP addresses available on network/)
  assert.equal(hosts[0]!.guests.size, 1)
  const { ports } = (await call('GET /networking/v2.0/ports?device_owner=compute:nova')).body
  assert.equal(ports.length, 1)
})

test('a hundred creates for one port give exactly one', async t => {
  const { create, settled, servers, call, hosts } = await cloudOf(t, { settings: { vif_plugging_timeout: 0 } })
  const network = await networkOf(call, '10.9.0.0/24')
  const { port } = (await call('POST /networking/v2.0/ports', { body: { port: { network_id: network } } })).body
  const answers = await Promise.all(Array.from({ length: 100 }, () => create({ networks: [{ port: port.id }] })))
  await settled()
  const all = await servers()
  assert.equal(tally(all).ACTIVE, 1)
  for (const { fault } of all.filter((s: { status: string }) => s.status === 'ERROR')) assert.match(fault.message, /still in use/)
  const refused = answers.filter(answer => answer.status !== 202)
  for (const { status, body } of refused) {
    assert.equal(status, 409)
    assert.match(body.conflictingRequest.message, /still in use/)
  }
  assert.equal(hosts[0]!.guests.size, 1)
  const late = await create({ networks: [{ port: port.id }] })
  assert.match(late.body.conflictingRequest.message, /Port .* is still in use/)
})

test('interfaces come and go, on networks and ports', async t => {
  const { create, settled, call, hosts, servers } = await cloudOf(t)
  const network = await networkOf(call, '10.9.0.0/24')
  await create()
  await settled()
  const [{ id }] = await servers()
  const path = `/compute/v2.1/servers/${id}/os-interface`
  const plugged = () => hosts[0]!.guests.get(id)!.spec.nics.map(nic => nic.portId)
  const add = (interfaceAttachment: object) => call(`POST ${path}`, { body: { interfaceAttachment }, headers: at('2.70') })
  const one = await add({ net_id: network, fixed_ips: [{ ip_address: '10.9.0.77' }], tag: 'front' })
  assert.equal(one.status, 200, JSON.stringify(one.body))
  const { port_id, fixed_ips, tag } = one.body.interfaceAttachment
  assert.deepEqual([fixed_ips[0].ip_address, tag], ['10.9.0.77', 'front'])
  assert.deepEqual(plugged(), [port_id])
  const { port } = (await call('POST /networking/v2.0/ports', { body: { port: { network_id: network } } })).body
  assert.equal((await add({ port_id: port.id })).status, 200)
  assert.equal((await add({ port_id: port.id })).status, 409)
  assert.equal((await add({ port_id: port.id, net_id: network })).status, 400)
  assert.equal((await add({ fixed_ips: [{ ip_address: '10.9.0.3' }] })).status, 400)
  assert.equal((await call(`GET ${path}`)).body.interfaceAttachments.length, 2)
  for (const gone of [port.id, port_id]) assert.equal((await call(`DELETE ${path}/${gone}`)).status, 202)
  assert.equal((await call(`DELETE ${path}/${port.id}`)).status, 404)
  assert.deepEqual(plugged(), [])
  // What the caller brought stays, what Nova made goes.
  const { ports } = (await call(`GET /networking/v2.0/ports?network_id=${network}`)).body
  assert.deepEqual(
    ports.map((p: { id: string; device_id: string }) => [p.id, p.device_id]),
    [[port.id, '']],
  )
  hosts[0]!.fail = verb => (verb === 'attach' ? new Error('the guest has no free slot') : undefined)
  assert.ok((await add({ net_id: network })).status >= 400)
  assert.equal((await call(`GET ${path}`)).body.interfaceAttachments.length, 0)
})
