// The pretended host: the same interface, nothing touched. It keeps what a real host would hold (bridges, tunnels, namespaces, taps) as names, and
// lets a test ask whether a packet would pass, by the same predicates that cut connections on a real host. Thousands fit into one process.
import type { Flow } from '#host/net/conntrack.ts'
import type { NetThing } from '../../verbs.ts'
import type { Bandwidth, DesiredNetwork, DesiredPort, NetDesired, NetError, NetFacts, NetReport } from '../desired.ts'
import type { NetDriver } from '../driver.ts'
import { bridgeName, dhcpNetns, routerNetns, TAP, tapName, vxlanName } from '../names.ts'
import { type PortStatus, reportOf } from '../report.ts'
import { filterOf, portAllows, portMaySend } from '../security/allows.ts'

export interface MemoryNetOptions {
  overlayAddress?: string | null
  /** Names of physical networks with the bridge that each would be. */
  physicalNetworks?: Record<string, string>
  /** What they carry. */
  bandwidths?: Record<string, Bandwidth>
  /** Every guest's tap counts as there: for simulation, where no guest makes one. */
  everyTap?: boolean
}

export interface MemoryNet extends NetDriver {
  /** A guest's tap appears or goes. */
  tap(name: string, there: boolean): void
  /** Whether the first packet of a flow from one of this host's ports would reach an address on its network here. */
  passes(fromPortId: string, flow: Flow): boolean
}

export function memoryNet(options: MemoryNetOptions = {}): MemoryNet {
  const taps = new Map<string, { plugged: boolean }>()
  const watchers = new Set<(tap: string, there: boolean) => void>()
  let made = new Map<string, NetThing>()
  let last: NetDesired | null = null
  const physical = options.physicalNetworks ?? {}

  const isGuest = (port: DesiredPort) => !port.deviceOwner.startsWith('network:')
  const plug = (ports: readonly DesiredPort[]): Map<string, PortStatus> => {
    const statuses = new Map<string, PortStatus>()
    for (const port of ports) {
      // A subport is where its parent is.
      const tap = taps.get(tapName(port.subport?.parentId ?? port.id))
      if (tap) tap.plugged = port.adminStateUp
      const there = tap !== undefined || options.everyTap === true
      statuses.set(port.id, !port.adminStateUp ? 'DOWN' : there ? 'ACTIVE' : 'BUILD')
    }
    return statuses
  }
  const things = (desired: NetDesired, bad: ReadonlySet<string | null>): Map<string, NetThing> => {
    const all: NetThing[] = []
    for (const network of desired.networks) {
      if (bad.has(network.id)) continue
      const bridge = network.type === 'flat' ? (physical[network.physicalNetwork ?? ''] as string) : bridgeName(network.id)
      all.push({ kind: 'bridge', name: bridge, id: network.id, wanted: true })
      if (network.type === 'vxlan' && network.peers.length > 0) {
        all.push({ kind: 'link', name: vxlanName(network.segmentationId as number), id: null, wanted: true })
      }
      if (network.dhcp) all.push({ kind: 'netns', name: dhcpNetns('', network.id), id: network.id, wanted: true })
    }
    for (const router of desired.routers)
      all.push({ kind: 'netns', name: routerNetns('', router.id), id: router.id, wanted: true })
    const legs = desired.ports.filter(port => !isGuest(port) && !bad.has(port.networkId))
    for (const port of legs) all.push({ kind: 'link', name: tapName(port.id), id: tapName(port.id).slice(3), wanted: true })
    for (const family of ['bridge', 'inet'])
      all.push({ kind: 'table', name: `${family} nubo`, id: null, wanted: desired.networks.length > 0 })
    return new Map(all.map(thing => [`${thing.kind} ${thing.name}`, thing]))
  }
  const problem = (network: DesiredNetwork): string | null => {
    if ((network.type === 'flat' || network.type === 'vlan') && physical[network.physicalNetwork ?? ''] === undefined) {
      const known = Object.keys(physical).join(', ') || 'none'
      return `physical network ${network.physicalNetwork} is not configured on this host (configured: ${known})`
    }
    if (network.type === 'vxlan' && network.peers.length > 0 && !options.overlayAddress) {
      return 'the network has ports on other hosts, but this host has no address for tunnels (overlay address)'
    }
    return null
  }
  const inventory = (): NetThing[] => {
    const wanted = new Set((last?.ports ?? []).map(port => tapName(port.id)))
    const own = [...taps.keys()].map((name): NetThing => ({ kind: 'link', name, id: name.slice(3), wanted: wanted.has(name) }))
    return [...made.values(), ...own]
  }

  return {
    async probe(): Promise<NetFacts> {
      const { overlayAddress = null, bandwidths = {} } = options
      return { features: {}, tools: {}, problems: [], overlayAddress, physicalNetworks: physical, bandwidths }
    },
    async apply(desired): Promise<NetReport> {
      last = desired
      const errors: NetError[] = []
      for (const network of desired.networks) {
        const message = problem(network)
        if (message) errors.push({ kind: 'network', id: network.id, message })
      }
      const bad = new Set(errors.map(error => error.id))
      for (const tap of taps.values()) tap.plugged = false
      const guests = desired.ports.filter(isGuest)
      const statuses = plug(guests.filter(port => !bad.has(port.networkId)))
      for (const port of guests) if (!statuses.has(port.id)) statuses.set(port.id, 'DOWN')
      made = things(desired, bad)
      return reportOf(desired, statuses, errors)
    },
    async wire(names) {
      const ports = (last?.ports ?? []).filter(
        port => isGuest(port) && names.includes(tapName(port.subport?.parentId ?? port.id)),
      )
      return [...plug(ports)].map(([id, status]) => ({ id, status }))
    },
    async watch(heard) {
      watchers.add(heard)
      return async () => void watchers.delete(heard)
    },
    inventory: async () => inventory(),
    async destroy() {
      const all = [...made.values()]
      made = new Map()
      last = null
      for (const tap of taps.values()) tap.plugged = false
      return all
    },
    async close() {
      watchers.clear()
    },
    tap(name, there) {
      if (!TAP.test(name)) throw new TypeError(`not the name of a tap: ${name}`)
      if (there) taps.set(name, { plugged: false })
      else taps.delete(name)
      for (const heard of watchers) heard(name, there)
    },
    passes(fromPortId, flow) {
      const plugged = (port: DesiredPort) => options.everyTap || taps.get(tapName(port.id))?.plugged === true
      const from = last?.ports.find(port => port.id === fromPortId)
      const to = last?.ports.find(
        port => port.networkId === from?.networkId && port.fixedIps.some(one => one.ip === flow.destination),
      )
      if (!last || !from || !to || !plugged(from) || !plugged(to)) return false
      const filter = filterOf(last)
      return (
        portMaySend(from, from.mac, flow.source) &&
        portAllows(from, 'egress', flow, filter) &&
        portAllows(to, 'ingress', flow, filter)
      )
    },
  }
}
