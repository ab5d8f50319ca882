/** What nova asks of networking: the part of `neighbours` that is about ports, and how nova keeps them. */
import ipaddr from 'ipaddr.js'
import type { Context } from '#kit/context.ts'
import type { Query, Tx } from '#kit/db/index.ts'
import { badRequest } from '#kit/fault.ts'
import type { Env } from '#kit/service.ts'
import * as neutron from '#services/neutron/index.ts'
import * as placement from '#services/placement/index.ts'
import type { BuildAsked, NetworkAsked, NicKept } from './tables.ts'

/** Who owns what is made for a server. */
export interface Owner {
  serverId: string
  projectId: string
  userId: string
}

/** A port of a server, as its interfaces show it. */
export interface Interface {
  portId: string
  networkId: string
  mac: string
  state: string
  fixedIps: { subnet_id: string; ip_address: string }[]
}

export type PortRequest = neutron.PortRequest

/** The providers of a host from which these ports of a server have what they are promised, by port. */
async function served(tx: Tx, server: string, host: string, portIds: readonly string[]): Promise<Record<string, string>> {
  const requests = await neutron.portRequests(tx, portIds)
  if (requests.length === 0) return {}
  const root = await tx.selectFrom('nova.hypervisors').select('id').where('host', '=', host).executeTakeFirst()
  return root ? placement.nestedServing(tx, root.id, server, requests) : {}
}

export const portNeighbours = {
  /** What the ports that a user brought ask of a host. */
  portRequests: (db: Query, portIds: readonly string[]): Promise<PortRequest[]> => neutron.portRequests(db, portIds),

  /** Takes what a port asks of the host that its server is on, for an interface that is added. Throws badRequest where not enough is left. */
  async portPromise(tx: Tx, serverId: string, host: string, portId: string): Promise<void> {
    const requests = await neutron.portRequests(tx, [portId])
    if (requests.length === 0) return
    const root = await tx.selectFrom('nova.hypervisors').select('id').where('host', '=', host).executeTakeFirstOrThrow()
    const taken = (await placement.nestedFit(tx, [root.id], requests)).get(root.id)
    if (!taken) throw badRequest(`Host ${host} has not left what port ${portId} asks of its physical networks.`)
    await placement.allocationsAdjust(tx, serverId, taken)
  },

  /** A host's provider is new: what its network agent said of its physical networks goes below it. */
  bandwidths: (tx: Tx, host: string, id: string): Promise<void> => neutron.bandwidthsTell(tx, host, id),

  /**
   * Checks the networks asked for `count` servers before anything is made: that they exist, may be used and are unambiguous; that
   * ports are free; that the quota has room. Answers what to take: the one network that there is in place of nothing asked.
   */
  async networksCheck(
    env: Env,
    db: Query,
    ctx: Context,
    asked: BuildAsked['networks'],
    count: number,
  ): Promise<BuildAsked['networks']> {
    const wanted = Array.isArray(asked)
      ? asked.map(n => ({ networkId: n.network, portId: n.port, fixedIp: n.fixedIp, tag: n.tag }))
      : asked
    if (asked === 'auto' && (await neutron.networkAwaits(db, ctx.projectId ?? ''))) return 'auto'
    const plan = await neutron.networksForServer(env, db, { projectId: ctx.projectId ?? '', isAdmin: ctx.isAdmin, wanted, count })
    if (plan.length === 0) return 'none'
    return plan.map(nic => ({
      network: nic.networkId,
      ...(nic.portId !== null && { port: nic.portId }),
      ...(nic.fixedIp !== null && { fixedIp: nic.fixedIp }),
      ...(nic.tag !== null && { tag: nic.tag }),
    }))
  },

  /** The network that a server gets which asked for any, where its project has none yet: made now. */
  async networkAuto(env: Env, tx: Tx, ctx: Context): Promise<BuildAsked['networks']> {
    return [{ network: await neutron.topologyEnsure(env, tx, ctx, ctx.projectId ?? '') }]
  },

  /** Security groups by name or id, as id and name. Throws badRequest for one that is unknown. */
  securityGroups: (db: Query, ctx: Context, names: readonly string[]): Promise<{ id: string; name: string }[]> =>
    neutron.securityGroupsByName(
      db,
      ctx.projectId ?? '',
      names.filter(name => name !== 'default'),
    ),

  /** The groups of a server's ports as shown. */
  securityGroupsOf: async (db: Query, serverId: string): Promise<{ id: string; name: string }[]> =>
    groupsOf((await neutron.portsOfServers(db, [serverId])).get(serverId) ?? []),

  /** The ports of a server as its interfaces show them. */
  async interfaces(db: Query, serverId: string): Promise<Interface[]> {
    return ((await neutron.portsOfServers(db, [serverId])).get(serverId) ?? []).map(port => ({
      portId: port.id,
      networkId: port.networkId,
      mac: port.macAddress,
      state: port.status,
      fixedIps: port.fixedIps.map(({ subnetId, ip }) => ({ subnet_id: subnetId, ip_address: ip })),
    }))
  },

  /** Makes and binds a server's ports on a host, which wake the server's saga when they are wired. Answers what is to be kept of them. */
  async portsTake(
    env: Env,
    tx: Tx,
    owner: Owner,
    host: string,
    asked: { networks: BuildAsked['networks']; securityGroups: string[]; hostname: string; zone: string; wake: string },
  ): Promise<{ nics: NicKept[]; securityGroups: { id: string; name: string }[] }> {
    if (!Array.isArray(asked.networks) || asked.networks.length === 0) return { nics: [], securityGroups: [] }
    const binding = { host, deviceId: owner.serverId, deviceOwner: `compute:${asked.zone}`, wake: asked.wake }
    const ours = new Set<string>()
    const tags = new Map<string, string>()
    const order: string[] = []
    const made: neutron.NewPort[] = []
    const brought = asked.networks.flatMap(nic => nic.port ?? [])
    const serving = await served(tx, owner.serverId, host, brought)
    for (const nic of asked.networks) {
      const port = nic.port ? undefined : await portMade(env, tx, owner, nic, { ...asked, ...binding })
      const id = port?.id ?? nic.port!
      if (nic.port) await neutron.portBind(env, tx, id, { ...binding, allocation: serving[id] })
      else ours.add(id)
      if (port) made.push(port)
      if (nic.tag) tags.set(id, nic.tag)
      order.push(id)
    }
    if (made.length === order.length) {
      const subnets = new Map(made.flatMap(port => port.subnets.map(subnet => [subnet.id, subnet])))
      return { nics: made.map(port => nicOf(port, subnets, ours, tags)), securityGroups: groupsOf(made) }
    }
    const ports = await neutron.portsOfServers(tx, [owner.serverId])
    const all = (await nicsOf(tx, ports, ours, tags)).get(owner.serverId) ?? []
    const nics = all.filter(nic => order.includes(nic.portId))
    nics.sort((a, b) => order.indexOf(a.portId) - order.indexOf(b.portId))
    return { nics, securityGroups: groupsOf(ports.get(owner.serverId) ?? []) }
  },

  /** Binds a server's ports to another host; `wake` is told when they are wired there. */
  async portsMove(env: Env, tx: Tx, serverId: string, host: string, zone: string, wake: string): Promise<void> {
    const ports = (await neutron.portsOfServers(tx, [serverId])).get(serverId) ?? []
    const binding = { host, deviceId: serverId, deviceOwner: `compute:${zone}`, wake }
    const row = await tx.selectFrom('nova.servers').select('nics').where('id', '=', serverId).executeTakeFirst()
    const brought = (row?.nics ?? []).flatMap(nic => (nic.ours ? [] : [nic.portId]))
    const serving = await served(tx, serverId, host, brought)
    for (const { id } of ports) await neutron.portBind(env, tx, id, { ...binding, allocation: serving[id] ?? null })
  },

  /** Takes a server's ports from their host; they stay the server's. */
  async portsRest(env: Env, tx: Tx, serverId: string): Promise<void> {
    const ports = (await neutron.portsOfServers(tx, [serverId])).get(serverId) ?? []
    for (const { id } of ports) await neutron.portUnbind(env, tx, id, { keepDevice: true })
  },

  /** Adds a group to all ports of a server or takes it away. Throws notFound for an unknown group. */
  async securityGroupOfServer(
    env: Env,
    tx: Tx,
    server: { id: string; project_id: string },
    name: string,
    verb: 'add' | 'remove',
  ): Promise<void> {
    const group =
      name === 'default'
        ? await neutron.defaultGroup(tx, server.project_id)
        : (await neutron.securityGroupsByName(tx, server.project_id, [name]))[0]!.id
    await neutron.securityGroupOfServer(env, tx, server.id, group, verb)
  },

  /** What servers' ports are now, in place of what was kept: their addresses may have changed, floating ones above all. */
  async nicsNow(db: Query, servers: readonly { id: string; nics: readonly NicKept[] }[]): Promise<Map<string, NicKept[]>> {
    const with_ = servers.filter(server => server.nics.length > 0)
    const before = new Map(with_.flatMap(server => server.nics.map((nic, place) => [nic.portId, { nic, place }] as const)))
    const ids = with_.map(server => server.id)
    const now = await nicsOf(db, await neutron.portsOfServers(db, ids))
    for (const nics of now.values()) {
      for (const nic of nics) {
        const known = before.get(nic.portId)
        if (known) Object.assign(nic, { tag: known.nic.tag, ours: known.nic.ours })
      }
      nics.sort((a, b) => (before.get(a.portId)?.place ?? 99) - (before.get(b.portId)?.place ?? 99))
    }
    return now
  },

  /** Whether all ports of a server are wired on their host. */
  serverWired: (db: Query, serverId: string): Promise<boolean> => neutron.deviceWired(db, serverId),

  /** Deletes the ports that nova made for a server, and frees the others; `only` one of them. */
  async portsRelease(env: Env, tx: Tx, serverId: string, nics: readonly NicKept[], only?: string): Promise<void> {
    const ours = new Set(nics.filter(nic => nic.ours).map(nic => nic.portId))
    const ports = (await neutron.portsOfServers(tx, [serverId])).get(serverId) ?? []
    if (only !== undefined)
      await promiseEnds(
        tx,
        serverId,
        ports.find(port => port.id === only),
      )
    for (const { id } of ports.filter(port => only === undefined || port.id === only))
      await (ours.has(id) ? neutron.portDelete(env, tx, id) : neutron.portUnbind(env, tx, id))
  },
}

/** What a port of a server was promised is free again. */
async function promiseEnds(tx: Tx, serverId: string, port: neutron.ServerPort | undefined): Promise<void> {
  const provider = port?.profile.allocation
  if (!port || typeof provider !== 'string') return
  const [request] = await neutron.portRequests(tx, [port.id])
  const back = Object.entries(request?.resources ?? {}).map(([name, amount]) => [name, -amount])
  await placement.allocationsAdjust(tx, serverId, { [provider]: Object.fromEntries(back) })
}

/** A new port of a network for a server. */
async function portMade(
  env: Env,
  tx: Tx,
  owner: Owner,
  nic: NetworkAsked,
  asked: { securityGroups: string[]; hostname: string } & neutron.PortBinding,
): Promise<neutron.NewPort> {
  return neutron.portCreate(env, tx, {
    projectId: owner.projectId,
    networkId: nic.network!,
    ...(nic.fixedIp !== undefined && { fixedIps: [{ ip_address: nic.fixedIp }] }),
    ...(asked.securityGroups.length > 0 && { securityGroups: asked.securityGroups }),
    dnsName: asked.hostname,
    host: asked.host,
    deviceId: asked.deviceId,
    deviceOwner: asked.deviceOwner,
    ...(asked.wake !== undefined && { wake: asked.wake }),
  })
}

/** The groups of ports, each once, by name. */
function groupsOf(ports: readonly Pick<neutron.ServerPort, 'securityGroups'>[]): { id: string; name: string }[] {
  const groups = new Map(ports.flatMap(port => port.securityGroups.map(group => [group.id, group])))
  return [...groups.values()].sort((a, b) => a.name.localeCompare(b.name))
}

/** Servers' ports, as they are found now, in the form that nova keeps. */
async function nicsOf(
  db: Query,
  ports: ReadonlyMap<string, neutron.ServerPort[]>,
  ours: ReadonlySet<string> = new Set(),
  tags: ReadonlyMap<string, string> = new Map(),
): Promise<Map<string, NicKept[]>> {
  const ids = new Set([...ports.values()].flat().flatMap(port => port.fixedIps.map(ip => ip.subnetId)))
  const subnets = new Map((await neutron.subnetsByIds(db, [...ids])).map(subnet => [subnet.id, subnet]))
  return new Map([...ports].map(([id, list]) => [id, list.map(port => nicOf(port, subnets, ours, tags))]))
}

/** A port in the form that nova keeps. */
function nicOf(
  port: Omit<neutron.NewPort, 'subnets' | 'securityGroups'>,
  facts: ReadonlyMap<string, neutron.SubnetFacts>,
  ours: ReadonlySet<string>,
  tags: ReadonlyMap<string, string>,
): NicKept {
  return {
    portId: port.id,
    networkId: port.networkId,
    network: port.networkName,
    mac: port.macAddress,
    mtu: port.mtu,
    tap: `tap${port.id.slice(0, 11)}`,
    tag: tags.get(port.id) ?? null,
    ours: ours.has(port.id),
    addresses: port.fixedIps.flatMap(ip => [
      { address: ip.ip, version: ip.version, type: 'fixed' as const, mac: port.macAddress },
      ...ip.floatingIps.map(address => ({ address, version: 4 as const, type: 'floating' as const, mac: port.macAddress })),
    ]),
    subnets: port.fixedIps.flatMap(ip => {
      const subnet = facts.get(ip.subnetId)
      return subnet ? [subnetOf(ip.ip, subnet)] : []
    }),
  }
}

function subnetOf(address: string, subnet: neutron.SubnetFacts): NonNullable<NicKept['subnets']>[number] {
  return {
    version: subnet.version,
    dhcp: subnet.enableDhcp,
    ipv6Mode: subnet.ipv6AddressMode,
    address,
    netmask: netmaskOf(subnet.cidr),
    gateway: subnet.gatewayIp,
    dns: subnet.dnsServers,
    routes: subnet.hostRoutes.map(route => ({
      network: route.destination.split('/')[0]!,
      netmask: netmaskOf(route.destination),
      gateway: route.nexthop,
    })),
  }
}

/** `10.0.0.0/24` → `255.255.255.0`. */
function netmaskOf(cidr: string): string {
  const [address, length] = cidr.split('/') as [string, string]
  return address.includes(':')
    ? ipaddr.IPv6.subnetMaskFromPrefixLength(Number(length)).toString()
    : ipaddr.IPv4.subnetMaskFromPrefixLength(Number(length)).toString()
}
