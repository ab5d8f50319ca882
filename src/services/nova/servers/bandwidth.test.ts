// Servers whose ports are promised bandwidth: they go where it is, and Placement knows.
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { json } from '#kit/db/index.ts'
import { ADMIN, MEMBER } from '#kit/http/test.ts'
import { bandwidthsTell } from '#services/neutron/index.ts'
import { novaAudit } from '../audit.ts'
import { computeCloud, IMAGE } from '../testing.ts'

const N = '/networking/v2.0'
const at = (version: string) => ({ 'openstack-api-version': `compute ${version}` })

/** Hosts by name, with the Mbit/s of their physical network; 0: they have none. */
async function world(t: TestContext, hosts: Record<string, number>) {
  const cloud = await computeCloud(t, Object.keys(hosts), { settings: { vif_plugging_timeout: 0 } })
  const { call, db } = cloud
  for (const [host, mbits] of Object.entries(hosts)) {
    if (mbits === 0) continue
    const said = { public: { egress: mbits * 1000, ingress: mbits * 1000 } }
    await db.tx(async tx => {
      await tx
        .insertInto('neutron.agents')
        .values({
          id: crypto.randomUUID(),
          host,
          agent_type: 'Linux bridge agent',
          binary: 'x',
          topic: 'x',
          availability_zone: null,
          description: null,
          configurations: json({ resource_provider_bandwidths: said, interface_mappings: { public: 'br-ex' } }),
        })
        .execute()
      await bandwidthsTell(tx, host)
    })
  }
  const made = async (path: string, name: string, given: object, as = ADMIN) => {
    const { status, body } = await call(`POST ${N}/${path}`, { as, body: { [name]: given } })
    assert.equal(status, 201, JSON.stringify(body))
    return body[name]
  }
  const provider = { 'provider:network_type': 'vlan', 'provider:physical_network': 'public', shared: true }
  const network = await made('networks', 'network', { name: 'measured', ...provider })
  await made('subnets', 'subnet', { network_id: network.id, ip_version: 4, cidr: '10.5.0.0/24' })
  const policy = async (kbps: number, direction = 'ingress') => {
    const { id } = await made('qos/policies', 'policy', { name: `at least ${kbps}`, shared: true })
    await made(`qos/policies/${id}/minimum_bandwidth_rules`, 'minimum_bandwidth_rule', { min_kbps: kbps, direction })
    return id as string
  }
  const port = async (qos_policy_id: string | null) =>
    (await made('ports', 'port', { network_id: network.id, qos_policy_id }, MEMBER)).id as string
  const boot = async (...ports: string[]) => {
    const server = { name: 's', flavorRef: 'f1', imageRef: IMAGE, networks: ports.map(id => ({ port: id })) }
    const answer = await call('POST /compute/v2.1/servers', { as: MEMBER, body: { server }, headers: at('2.72') })
    assert.equal(answer.status, 202, JSON.stringify(answer.body))
    await cloud.settled()
    return (await call(`GET /compute/v2.1/servers/${answer.body.server.id}`)).body.server
  }
  /** What a server has of bandwidth: class → amount, and whose it is. */
  const has = async (id: string) => {
    const rows = await db.read
      .selectFrom('placement.allocations as a')
      .innerJoin('placement.providers as p', 'p.id', 'a.provider_id')
      .select(['p.name', 'p.id', 'a.class', 'a.used'])
      .where('a.consumer_id', '=', id)
      .where('a.class', 'like', 'NET_%')
      .orderBy('a.class')
      .execute()
    return rows.map(row => [row.name, row.class, row.used])
  }
  const bound = async (id: string) => (await call(`GET ${N}/ports/${id}`)).body.port['binding:profile'].allocation
  /** Nothing to find, in what rows say of each other. */
  const sound = async () => {
    const found = await novaAudit.findings({ db: db.read, config: cloud.env.config, files: false, hosts: new Map() })
    assert.deepEqual(
      found.filter(one => one.what === 'allocation'),
      [],
    )
  }
  return { ...cloud, made, policy, port, boot, has, bound, sound, network }
}

const IN = 'NET_BW_IGR_KILOBIT_PER_SEC'
const OUT = 'NET_BW_EGR_KILOBIT_PER_SEC'
const below = (host: string) => `${host}:Linux bridge agent:br-ex`

test('a server goes where its port’s bandwidth is left; where none is left it fails, and nothing stays taken', async t => {
  const { policy, port, boot, has, bound, sound, call, db } = await world(t, { plain: 0, wired: 3 })
  const [two, none] = [await policy(2000), await policy(2_000_000_000)]
  const [first, second, third] = [await port(two), await port(two), await port(none)]
  const shown = (await call(`GET ${N}/ports/${first}`)).body.port.resource_request
  assert.deepEqual(shown, { required: ['CUSTOM_PHYSNET_PUBLIC', 'CUSTOM_VNIC_TYPE_NORMAL'], resources: { [IN]: 2000 } })
  assert.ok(!('resource_request' in (await call(`GET ${N}/ports/${first}`, { as: MEMBER })).body.port))
  const one = await boot(first)
  assert.deepEqual([one.status, one['OS-EXT-SRV-ATTR:host']], ['ACTIVE', 'wired'])
  assert.deepEqual(await has(one.id), [[below('wired'), IN, 2000]])
  const provider = await db.read
    .selectFrom('placement.providers')
    .select('id')
    .where('name', '=', below('wired'))
    .executeTakeFirstOrThrow()
  assert.equal(await bound(first), provider.id)
  for (const id of [second, third]) {
    const failed = await boot(id)
    assert.equal(failed.status, 'ERROR')
    assert.match(failed.fault.message, /No valid host.*physical networks/)
    assert.deepEqual([await has(failed.id), await bound(id)], [[], undefined])
  }
  assert.equal((await call(`DELETE /compute/v2.1/servers/${one.id}`, { as: MEMBER })).status, 204)
  await sound()
})

test('a bound port that follows another policy takes what that one promises, of the same provider, or stays as it was', async t => {
  const { policy, port, boot, has, bound, sound, call } = await world(t, { wired: 10 })
  const [two, three, out, none] = [
    await policy(2000),
    await policy(3000),
    await policy(1000, 'egress'),
    await policy(2_000_000_000),
  ]
  const [a, b, free] = [await port(two), await port(two), await port(null)]
  const server = await boot(a, b, free)
  assert.deepEqual(await has(server.id), [[below('wired'), IN, 4000]], JSON.stringify(server.fault))
  const follow = (id: string, qos_policy_id: string | null) =>
    call(`PUT ${N}/ports/${id}`, { as: MEMBER, body: { port: { qos_policy_id } } })
  assert.equal((await follow(a, three)).status, 200)
  assert.deepEqual(await has(server.id), [[below('wired'), IN, 5000]])
  const refused = await follow(a, none)
  assert.deepEqual([refused.status, refused.body.NeutronError.type], [409, 'QosPlacementAllocationUpdateConflict'])
  assert.deepEqual(await has(server.id), [[below('wired'), IN, 5000]])
  assert.equal((await follow(b, out)).status, 200)
  assert.deepEqual(await has(server.id), [
    [below('wired'), OUT, 1000],
    [below('wired'), IN, 3000],
  ])
  assert.equal((await follow(free, two)).status, 200)
  assert.equal((await follow(a, null)).status, 200)
  assert.deepEqual([await has(server.id), await bound(a)], [[[below('wired'), OUT, 1000]], undefined])
  assert.equal(typeof (await bound(b)), 'string')
  await sound()
})

test('what ports are promised moves with their server, comes back with it, and is added and let go with them', async t => {
  const { policy, port, boot, has, bound, sound, call, settled } = await world(t, { one: 10, two: 10 })
  const two = await policy(2000)
  const [a, b] = [await port(two), await port(two)]
  const { id, ...server } = await boot(a)
  const from = server['OS-EXT-SRV-ATTR:host'] as string
  const to = from === 'one' ? 'two' : 'one'
  const act = async (body: object) => {
    const answer = await call(`POST /compute/v2.1/servers/${id}/action`, { body, headers: at('2.72') })
    assert.ok(answer.status < 300, JSON.stringify(answer.body))
    await settled()
  }
  const before = await bound(a)
  await act({ migrate: null })
  assert.deepEqual(await has(id), [[below(to), IN, 2000]])
  assert.notDeepEqual(await bound(a), before)
  await act({ revertResize: null })
  assert.deepEqual([await has(id), await bound(a)], [[[below(from), IN, 2000]], before])
  await act({ migrate: null })
  await act({ confirmResize: null })
  assert.deepEqual(await has(id), [[below(to), IN, 2000]])
  const attach = (port_id: string) =>
    call(`POST /compute/v2.1/servers/${id}/os-interface`, { body: { interfaceAttachment: { port_id } }, headers: at('2.72') })
  assert.equal((await attach(b)).status, 200)
  assert.deepEqual(await has(id), [[below(to), IN, 4000]])
  assert.equal((await attach(await port(await policy(9000)))).status, 400)
  assert.deepEqual(await has(id), [[below(to), IN, 4000]])
  assert.equal((await call(`DELETE /compute/v2.1/servers/${id}/os-interface/${b}`)).status, 202)
  await settled()
  assert.deepEqual([await has(id), await bound(b)], [[[below(to), IN, 2000]], undefined])
  await sound()
})

test('what a host says of its physical networks is written once, and again when it says something else', async t => {
  const { db, policy, port, boot } = await world(t, { wired: 10 })
  const say = (mbits: number | null) =>
    db.tx(async tx => {
      const said = mbits === null ? {} : { public: { egress: mbits * 1000, ingress: mbits * 1000 } }
      const configurations = json({ resource_provider_bandwidths: said, interface_mappings: { public: 'br-ex' } })
      await tx.updateTable('neutron.agents').set({ configurations }).where('host', '=', 'wired').execute()
      await bandwidthsTell(tx, 'wired')
    })
  const state = async () => {
    const { id, generation } = await db.read
      .selectFrom('placement.providers')
      .select(['id', 'generation'])
      .where('name', '=', below('wired'))
      .executeTakeFirstOrThrow()
    const rows = await db.read
      .selectFrom('placement.inventories')
      .select(['class', 'total'])
      .where('provider_id', '=', id)
      .execute()
    return { generation, totals: Object.fromEntries(rows.map(row => [row.class, row.total])) }
  }
  const first = await state()
  assert.deepEqual(first.totals, { [IN]: 10_000, [OUT]: 10_000 })
  await say(10)
  assert.deepEqual(await state(), first)
  await say(20)
  assert.deepEqual((await state()).totals, { [IN]: 20_000, [OUT]: 20_000 })
  assert.equal((await boot(await port(await policy(2000)))).status, 'ACTIVE')
  await say(null)
  assert.deepEqual((await state()).totals, { [IN]: 20_000 })
  assert.equal((await boot(await port(await policy(1000)))).status, 'ERROR')
})

test('bandwidth is promised only where a physical network has it', async t => {
  const { policy, made, call, sound } = await world(t, { wired: 10 })
  const tunnel = await made('networks', 'network', { name: 'tunnel' }, MEMBER)
  const two = await policy(2000)
  const make = (qos_policy_id: string) =>
    call(`POST ${N}/ports`, { as: MEMBER, body: { port: { network_id: tunnel.id, qos_policy_id } } })
  assert.equal((await make(two)).body.NeutronError?.type, 'QosRuleNotSupported')
  const { id: empty } = await made('qos/policies', 'policy', { name: 'empty', shared: true })
  const port = await make(empty)
  assert.equal(port.status, 201)
  assert.equal((await call(`GET ${N}/ports/${port.body.port.id}`)).body.port.resource_request, null)
  const rule = { minimum_bandwidth_rule: { min_kbps: 1 } }
  const added = await call(`POST ${N}/qos/policies/${empty}/minimum_bandwidth_rules`, { body: rule })
  assert.deepEqual([added.status, added.body.NeutronError?.type], [409, 'QosRuleNotSupported'])
  await sound()
})
