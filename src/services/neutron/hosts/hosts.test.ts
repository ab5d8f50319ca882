import assert from 'node:assert/strict'
import { test } from 'node:test'
import { MEMBER, type TestCloud, testCloud } from '#kit/http/test.ts'
import { dial, hostsOpen, memoryWay, presenceOf } from '#kit/link/index.ts'
import { keptLog } from '#kit/link/testing.ts'
import { placement } from '#services/placement/index.ts'
import { networkAgent } from '../agent/link.ts'
import { memoryNet } from '../agent/memory/driver.ts'
import { tapName } from '../agent/names.ts'
import { neutronAudit } from '../audit.ts'
import { portBind, portCreate, portDelete, portsOfServers, seedNetworks } from '../index.ts'
import { neutron } from '../service.ts'
import { desiredOf } from './desired.ts'
import { metadataServes } from './metadata.ts'
import { hostHello, hostReport } from './report.ts'

/** A cloud with its first networks, and hosts that are connected and known to be. */
async function cloudOf(t: Parameters<typeof testCloud>[0], names: string[]) {
  const log = keptLog()
  const stops: (() => Promise<unknown>)[] = []
  // Registered before the cloud's own hook, so that hosts stop before their database goes.
  t.after(async () => {
    for (const stop of stops.reverse()) await stop()
  })
  const hosts = hostsOpen({ controller: 'c1', log })
  const cloud = await testCloud(t, [placement, neutron], { hosts })
  const presence = presenceOf({ db: cloud.db, log, controller: 'c1', address: null })
  const off = hosts.watch(({ host, change }) => presence.changed(host, change === 'connect' ? 'own' : 'left'))
  await presence.start(hosts)
  const agents = await Promise.all(
    names.map(async (host, i) => {
      const link = dial({ host, ways: [memoryWay(hosts, host)], log })
      const driver = memoryNet({ overlayAddress: `192.0.2.${i + 1}`, physicalNetworks: { public: 'br-ex' } })
      return { host, link, driver, agent: await networkAgent({ link, driver, log }) }
    }),
  )
  stops.push(
    () => hosts.close(),
    () => presence.stop(),
    async () => off(),
  )
  for (const { agent, link, driver } of agents) {
    stops.push(
      () => driver.close(),
      () => link.close(),
      () => agent.close(),
    )
  }
  await presence.flushed()
  await cloud.db.tx(tx =>
    seedNetworks(cloud.env, tx, {
      project: 'p1',
      adminProject: 'admin-project',
      sharedWith: ['admin-project'],
      externalCidr: '172.24.4.0/24',
    }),
  )
  return { cloud, agents }
}

/** Waits until a question has the answer that is hoped for: what hosts do follows rows. */
async function until<T>(ask: () => Promise<T | undefined>): Promise<T> {
  const end = performance.now() + 10_000
  for (;;) {
    const answer = await ask()
    if (answer !== undefined) return answer
    assert.ok(performance.now() < end, 'it did not come about')
    await new Promise(resolve => setTimeout(resolve, 20))
  }
}

const networkNamed = async ({ db }: TestCloud, name: string) =>
  (await db.read.selectFrom('neutron.networks').select('id').where('name', '=', name).executeTakeFirstOrThrow()).id

test('a server port: from its row to its tap and back', async t => {
  const { cloud, agents } = await cloudOf(t, ['h1'])
  const { env, db } = cloud
  const networkId = await networkNamed(cloud, 'private')
  const { id } = await db.tx(async tx => {
    const port = await portCreate(env, tx, { projectId: 'p1', networkId })
    await portBind(env, tx, port.id, { host: 'h1', deviceId: 's1', deviceOwner: 'compute:nova', wake: 'nova.server:s1' })
    return port
  })
  const desired = await until(async () => {
    const state = await desiredOf(env, 'h1')
    return state.routers.length > 0 && state.networks.some(network => network.dhcp) ? state : undefined
  })
  const port = desired.ports.find(one => one.id === id)!
  assert.equal(port.fixedIps.length, 1)
  assert.equal(desired.securityGroups.length, 1)
  const [group] = desired.securityGroups
  assert.equal(group!.rules.length, 6)
  assert.deepEqual(desired.addressSets, [{ id: group!.id, addresses: [port.fixedIps[0]!.ip] }])
  const network = desired.networks.find(one => one.id === networkId)!
  assert.equal(network.subnets[0]!.routed, true)
  assert.ok(network.dhcp!.hosts.some(host => host.portId === id && host.mac === port.mac))
  const [router] = desired.routers
  assert.equal(router!.interfaces.length, 1)
  assert.deepEqual(router!.gateway!.gatewayIps, ['172.24.4.1'])
  assert.deepEqual(router!.metadata, [{ ip: port.fixedIps[0]!.ip, networkId, portId: id, deviceId: 's1' }])
  assert.equal(await metadataServes(db.read, 'h1', 's1'), true)
  assert.equal(await metadataServes(db.read, 'h2', 's1'), false, 'neither its DHCP server nor its router')
  assert.equal(await metadataServes(db.read, 'h1', 's2'), false)

  const statusOf = async () => (await portsOfServers(db.read, ['s1'])).get('s1')?.[0]?.status
  assert.equal(await statusOf(), 'DOWN')
  agents[0]!.driver.tap(tapName(id), true)
  await until(async () => ((await statusOf()) === 'ACTIVE' ? true : undefined))
  await db.tx(tx => portDelete(env, tx, id))
  assert.ok(!(await desiredOf(env, 'h1')).ports.some(one => one.id === id))
})

test('the agents of a host are listed, and run what they were given', async t => {
  const { cloud } = await cloudOf(t, ['h1'])
  const seeded = (await cloud.call('GET /networking/v2.0/routers')).body.routers[0]
  assert.equal(seeded.name, 'router1')
  await until(async () => {
    const { ports } = (await cloud.call(`GET /networking/v2.0/ports?device_id=${seeded.id}`)).body
    return ports.length === 2 && ports.every((port: { status: string }) => port.status === 'ACTIVE') ? true : undefined
  })
  // Read after its legs are up: it has a host since then.
  const { router } = (await cloud.call(`GET /networking/v2.0/routers/${seeded.id}`)).body
  assert.deepEqual(router.availability_zones, ['nova'])
})

test('what a host could not do is shown by its agents, in the words of the tool', async t => {
  const cloud = await testCloud(t, [placement, neutron])
  const { env, call } = cloud
  const { network } = (await call('POST /networking/v2.0/networks', { body: { network: { name: 'lab' } } })).body
  await hostHello(env, 'h1', { features: {}, tools: {}, problems: [], overlayAddress: null, physicalNetworks: {} })
  const message = 'dnsmasq --conf-file=x: not installed on this host'
  const report = { revision: 0, ports: [], routers: [], floatingIps: [], dhcp: [] }
  const errorsOf = async (type: string) => {
    const { agents } = (await call(`GET /networking/v2.0/agents?agent_type=${encodeURIComponent(type)}`)).body
    return agents[0].configurations.errors
  }
  await hostReport(env, 'h1', { ...report, full: true, errors: [{ kind: 'dhcp', id: network.id, message }] })
  assert.deepEqual(await errorsOf('DHCP agent'), [`DHCP server of network lab (${network.id}): ${message}`])
  assert.deepEqual(await errorsOf('L3 agent'), [])
  // A pass that could not even begin is said too; a good one clears it.
  await hostReport(env, 'h1', {
    ...report,
    full: false,
    errors: [{ kind: 'host', id: null, message: 'ip: not installed on this host' }],
  })
  assert.deepEqual(await errorsOf('Linux bridge agent'), ['host: ip: not installed on this host'])
  const [unsettled] = await neutronAudit.unsettled!(env.db.read, 300)
  assert.equal(unsettled!.why, 'host: ip: not installed on this host')
  await hostReport(env, 'h1', { ...report, full: true, errors: [] })
  assert.deepEqual(await errorsOf('Linux bridge agent'), [])
})

test('two hosts know of each other', async t => {
  const { cloud } = await cloudOf(t, ['h1', 'h2'])
  const { env, db } = cloud
  const networkId = await networkNamed(cloud, 'private')
  const made = await db.tx(async tx => {
    const ports = []
    for (const host of ['h1', 'h2']) {
      const port = await portCreate(env, tx, { projectId: 'p1', networkId })
      await portBind(env, tx, port.id, { host, deviceId: `s-${host}`, deviceOwner: 'compute:nova' })
      ports.push(port)
    }
    return ports
  })
  const peers = await until(async () => {
    const state = await desiredOf(env, 'h1')
    return state.networks.find(network => network.id === networkId)?.peers.find(peer => peer.address === '192.0.2.2')
  })
  assert.ok(peers.ports.some(port => port.mac === made[1]!.macAddress && port.ips.includes(made[1]!.fixedIps[0]!.ip)))
})

test('an address out in the world reaches its port', async t => {
  const { cloud } = await cloudOf(t, ['h1'])
  const { env, call } = cloud
  const networkId = await networkNamed(cloud, 'private')
  const external = await networkNamed(cloud, 'public')
  const port = await call('POST /networking/v2.0/ports', { as: MEMBER, body: { port: { network_id: networkId } } })
  const floating = await call('POST /networking/v2.0/floatingips', {
    as: MEMBER,
    body: { floatingip: { floating_network_id: external, port_id: port.body.port.id } },
  })
  assert.equal(floating.status, 201, JSON.stringify(floating.body))
  const { floating_ip_address, fixed_ip_address, id } = floating.body.floatingip
  const router = await until(async () => (await desiredOf(env, 'h1')).routers.find(one => one.floatingIps.length > 0))
  assert.deepEqual(router.floatingIps, [{ id, floating: floating_ip_address, fixed: fixed_ip_address }])
  await until(async () =>
    (await call(`GET /networking/v2.0/floatingips/${id}`, { as: MEMBER })).body.floatingip.status === 'ACTIVE' ? true : undefined,
  )
})

test('what a router’s outer addresses follow, and what it reads along, is told to its host', async t => {
  const { cloud } = await cloudOf(t, ['h1'])
  const { call, env } = cloud
  const N = '/networking/v2.0'
  const made = async (path: string, name: string, given: object, as?: typeof MEMBER) => {
    const { status, body } = await call(`POST ${N}/${path}`, { body: { [name]: given }, ...(as && { as }) })
    assert.equal(status, 201, JSON.stringify(body))
    return body[name]
  }
  const put = async (path: string, name: string, given: object) =>
    assert.equal((await call(`PUT ${N}/${path}`, { body: { [name]: given } })).status, 200)
  const policy = async (kbps: number) => {
    const { id } = await made('qos/policies', 'policy', { name: `p${kbps}`, shared: true })
    await made(`qos/policies/${id}/bandwidth_limit_rules`, 'bandwidth_limit_rule', { max_kbps: kbps, max_burst_kbps: 10 })
    return id as string
  }
  const [slow, slower, net] = [await policy(1000), await policy(500), await policy(2000)]
  const [networkId, external] = [await networkNamed(cloud, 'private'), await networkNamed(cloud, 'public')]
  const port = await made('ports', 'port', { network_id: networkId }, MEMBER)
  const wanted = { floating_network_id: external, port_id: port.id, qos_policy_id: slow }
  const floating = await made('floatingips', 'floatingip', wanted, MEMBER)
  assert.deepEqual([floating.qos_policy_id, floating.qos_network_policy_id], [slow, null])
  const router = (await call(`GET ${N}/routers/${floating.router_id}`)).body.router
  const gateway = router.external_gateway_info.external_fixed_ips[0].ip_address as string
  const told = async () => (await desiredOf(env, 'h1')).routers.find(one => one.id === router.id)!
  const rates = async () => (await told()).limits!.map(({ ip, egress }) => [ip, egress.bandwidth?.kbps])
  assert.deepEqual(await rates(), [[floating.floating_ip_address, 1000]])
  await put(`routers/${router.id}`, 'router', { external_gateway_info: { network_id: external, qos_policy_id: slower } })
  const both = [
    [floating.floating_ip_address, 1000],
    [gateway, 500],
  ]
  assert.deepEqual(new Map((await rates()) as [string, number][]), new Map(both as [string, number][]))
  await put(`networks/${external}`, 'network', { qos_policy_id: net })
  await put(`floatingips/${floating.id}`, 'floatingip', { port_id: port.id, qos_policy_id: null })
  assert.equal(new Map((await rates()) as [string, number][]).get(floating.floating_ip_address), 2000)
  const shown = (await call(`GET ${N}/floatingips/${floating.id}`)).body.floatingip
  assert.deepEqual([shown.qos_policy_id, shown.qos_network_policy_id], [null, net])
  await made(`routers/${router.id}/conntrack_helpers`, 'conntrack_helper', { helper: 'ftp', protocol: 'tcp', port: 21 })
  assert.deepEqual((await told()).helpers, [{ helper: 'ftp', protocol: 'tcp', port: 21 }])
})

test('a port follows its own policy, else its network’s; servers of the network’s own follow none', async t => {
  const { cloud } = await cloudOf(t, ['h1'])
  const { call, env, db } = cloud
  const N = '/networking/v2.0'
  const made = async (path: string, name: string, given: object) => {
    const { status, body } = await call(`POST ${N}/${path}`, { body: { [name]: given } })
    assert.equal(status, 201, JSON.stringify(body))
    return body[name].id as string
  }
  const [slow, marked] = [
    await made('qos/policies', 'policy', { name: 's' }),
    await made('qos/policies', 'policy', { name: 'm' }),
  ]
  await made(`qos/policies/${slow}/bandwidth_limit_rules`, 'bandwidth_limit_rule', { max_kbps: 1000 })
  const other = { max_kbps: 2000, max_burst_kbps: 50, direction: 'ingress' }
  await made(`qos/policies/${slow}/bandwidth_limit_rules`, 'bandwidth_limit_rule', other)
  await made(`qos/policies/${slow}/packet_rate_limit_rules`, 'packet_rate_limit_rule', { max_kpps: 3 })
  await made(`qos/policies/${marked}/dscp_marking_rules`, 'dscp_marking_rule', { dscp_mark: 46 })
  const networkId = await networkNamed(cloud, 'private')
  const { id } = await db.tx(async tx => {
    const port = await portCreate(env, tx, { projectId: 'p1', networkId })
    await portBind(env, tx, port.id, { host: 'h1', deviceId: 's1', deviceOwner: 'compute:nova' })
    return port
  })
  const qos = async () => (await desiredOf(env, 'h1')).ports.map(port => [port.deviceOwner, port.qos])
  const told = async (path: string, name: string, policy: string | null) => {
    assert.equal((await call(`PUT ${N}/${path}`, { body: { [name]: { qos_policy_id: policy } } })).status, 200)
    const all = await qos()
    for (const [owner, policy] of all) if (String(owner).startsWith('network:')) assert.equal(policy, null)
    return all.find(([owner]) => owner === 'compute:nova')![1]
  }
  const none = { bandwidth: null, packets: null }
  const limited = {
    egress: { bandwidth: { kbps: 1000, burst: 800 }, packets: { rate: 3000, burst: 2400 } },
    ingress: { bandwidth: { kbps: 2000, burst: 50 }, packets: null },
    dscp: null,
  }
  assert.deepEqual(await told(`networks/${networkId}`, 'network', slow), limited)
  assert.deepEqual(await told(`ports/${id}`, 'port', marked), { egress: none, ingress: none, dscp: 46 })
  assert.deepEqual(await told(`ports/${id}`, 'port', null), limited)
  assert.equal(await told(`networks/${networkId}`, 'network', null), null)
})
