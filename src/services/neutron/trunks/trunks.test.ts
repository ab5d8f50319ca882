import assert from 'node:assert/strict'
import { test } from 'node:test'
import { FOREIGN, MEMBER, testCloud } from '#kit/http/test.ts'
import { desiredOf } from '../hosts/desired.ts'
import { portBind, portUnbind } from '../index.ts'
import { neutron } from '../service.ts'

const N = '/networking/v2.0'

test('a trunk, its subports, and where they go', async t => {
  const { call, env, db } = await testCloud(t, [neutron])
  const made = async (path: string, name: string, body: object) => {
    const answer = await call(`POST ${N}/${path}`, { as: MEMBER, body: { [name]: body } })
    assert.equal(answer.status, 201, JSON.stringify(answer.body))
    return answer.body[name]
  }
  const port = async () => made('ports', 'port', { network_id: (await made('networks', 'network', {})).id })
  const [parent, one, two] = [await port(), await port(), await port()]
  const vlan = (id: string, tag: number) => ({ port_id: id, segmentation_type: 'vlan', segmentation_id: tag })
  const trunk = await made('trunks', 'trunk', { port_id: parent.id, sub_ports: [vlan(one.id, 2)] })
  assert.deepEqual(trunk.sub_ports, [vlan(one.id, 2)])
  const refused = async (path: string, body: object, as = MEMBER) => {
    const answer = await call(`PUT ${N}/trunks/${trunk.id}/${path}`, { as, body })
    return [answer.status, answer.body.NeutronError?.type]
  }
  assert.deepEqual(await refused('add_subports', { sub_ports: vlan(two.id, 3) }), [400, 'HTTPBadRequest'])
  assert.deepEqual(await refused('add_subports', { sub_ports: [{ port_id: two.id }] }), [400, 'HTTPBadRequest'])
  assert.deepEqual(await refused('add_subports', { sub_ports: [vlan(two.id, 2)] }), [409, 'DuplicateSubPort'])
  assert.deepEqual(await refused('add_subports', { sub_ports: [vlan(one.id, 5)] }), [409, 'TrunkPortInUse'])
  assert.deepEqual(await refused('add_subports', { sub_ports: [vlan(parent.id, 5)] }), [409, 'ParentPortInUse'])
  assert.deepEqual(await refused('add_subports', { sub_ports: [vlan(two.id, 3)] }, FOREIGN), [404, 'TrunkNotFound'])
  assert.deepEqual(await refused('add_subports', { sub_ports: [vlan(two.id, 3)] }), [200, undefined])
  const shown = await call(`GET ${N}/ports/${parent.id}`, { as: MEMBER })
  assert.deepEqual(
    shown.body.port.trunk_details.sub_ports.map((sub: { mac_address: string }) => sub.mac_address),
    [one.mac_address, two.mac_address],
  )

  // The server's host is theirs, and its end is theirs too.
  await db.tx(tx => portBind(env, tx, parent.id, { host: 'h1', deviceId: 's1', deviceOwner: 'compute:nova' }))
  const carried = (await desiredOf(env, 'h1')).ports.filter(p => p.subport)
  assert.deepEqual(
    carried.map(p => [p.id, p.subport]).sort(),
    [
      [one.id, { parentId: parent.id, tag: 2 }],
      [two.id, { parentId: parent.id, tag: 3 }],
    ].sort(),
  )
  assert.equal((await call(`DELETE ${N}/trunks/${trunk.id}`, { as: MEMBER })).status, 409)
  await db.tx(tx => portUnbind(env, tx, parent.id))
  assert.deepEqual((await desiredOf(env, 'h1')).ports, [])

  assert.deepEqual(await refused('remove_subports', { sub_ports: [{ port_id: two.id }] }), [200, undefined])
  assert.deepEqual(await refused('remove_subports', { sub_ports: [{ port_id: two.id }] }), [404, 'SubPortNotFound'])
  assert.equal((await call(`DELETE ${N}/ports/${parent.id}`, { as: MEMBER })).body.NeutronError.type, 'PortInUseAsTrunkParent')
  assert.equal((await call(`DELETE ${N}/trunks/${trunk.id}`, { as: MEMBER })).status, 204)
  assert.equal((await call(`GET ${N}/ports/${one.id}`, { as: MEMBER })).body.port.device_owner, '')
})
