// The driver of a real Linux host.
//
// Two locks. The quick one is held while bridges, filters and taps are put right, some tens of milliseconds, so that a guest's tap that appears
// is wired at once. The slow one is held by a whole pass, which also makes namespaces. In a pass the order keeps everything closed that is not
// yet filtered: unplug what is not wanted, put filters in force, plug what is wanted, and only then remove what nobody needs.
import { createHash } from 'node:crypto'
import { linkFetch, linkList } from '#host/net/ip.ts'
import { netnsList, netnsStale } from '#host/net/netns.ts'
import { hasIpv6 } from '#host/net/sysctl.ts'
import type { DesiredPort, NetDesired, NetError, NetReport } from '../desired.ts'
import { dhcpEnsure, dhcpRemove, dhcpRuns } from '../dhcp/server.ts'
import type { Look, NetDriver } from '../driver.ts'
import { metadataPlaces } from '../metadata/places.ts'
import { type MetadataProxy, metadataProxy } from '../metadata/proxy.ts'
import { dhcpNetns, limitLink, routerNetns, tapName } from '../names.ts'
import { type PortStatus, reportOf } from '../report.ts'
import { routerEnsure, routerRemove } from '../router/router.ts'
import { bridgeEnsure, bridgeOf, bridgesSweep, wantedLinks } from './bridges.ts'
import type { NetConfig } from './config.ts'
import { destroyAll, inventoryOf, namespaceIds } from './inventory.ts'
import { limitsEnsure } from './limits.ts'
import { isGuest, tapsPlug, tapsUnplug, tapsWire } from './ports.ts'
import { probeNet } from './probe.ts'
import { type Filters, securityEnsure, securityRead } from './security.ts'
import { type TapEvent, watchTaps } from './taps.ts'
import { subportsEnsure, subportsSweep } from './trunks.ts'

/** How long the monitor may take to tell of a tap that was wired (milliseconds). */
const TOLD_MS = 1000

/** Namespaces that are worked on at a time. */
const AT_ONCE = 4

/** Opens the driver of this machine (or, with `place`, of a namespace that stands for one). Touches nothing yet. */
export function linuxNet(config: NetConfig): NetDriver {
  const quick = serial()
  const slow = serial()
  const prefix = config.prefix ?? ''
  const metadata: MetadataProxy | null = config.metadata ? metadataProxy(config.metadata) : null
  // What was made right, by object: only to spare a look at what cannot have changed. A fresh process, and a thorough pass, look at all.
  const right = new Map<string, string>()
  let last: NetDesired | null = null
  /** The state whose filters are in force: taps may be plugged for it. */
  let inForce: NetDesired | null = null
  /** Those filters themselves. */
  let filters: Filters | null = null
  /** Guests' taps that the monitor has told of, and whether in a bridge. */
  const taps = new Map<string, boolean>()
  /** Those that were plugged by us, by when the monitor tells of it at the latest: until then it tells of what was before. */
  const wired = new Map<string, number>()
  /** What ends the monitors. */
  const stops: (() => Promise<void>)[] = []
  /** Taps that could not be plugged. A try changes the tap, which the monitor hears: without this, one try would cause the next. A pass tries again. */
  const refused = new Set<string>()
  /** What ports have become since the last pass looked at them: newer than what that pass, which goes on for long, has to report. */
  const since = new Map<string, PortStatus>()

  const wiring = (ports: readonly DesiredPort[]): void => {
    // Without a monitor nobody would tell of a tap that goes.
    if (stops.length === 0) return
    const until = performance.now() + TOLD_MS
    for (const port of ports) if (port.adminStateUp) wired.set(tapName(port.id), until)
  }
  const isWired = ({ id }: DesiredPort): boolean => {
    const until = wired.get(tapName(id))
    return until !== undefined && (taps.get(tapName(id)) === true || performance.now() < until)
  }

  /** Puts the filters in force: from those that are known to be, if they are still, else from those that are there. */
  const filter = async (desired: NetDesired, known: Filters | null, reading: Promise<Filters> | undefined, thorough: boolean) => {
    filters = null
    if (known) {
      try {
        filters = await securityEnsure(desired, config, known, thorough)
        return
      } catch (error) {
        config.log?.warn({ error: (error as Error).message }, 'filters are not as they were left; they are read and made anew')
      }
    }
    filters = await securityEnsure(desired, config, await (reading ?? securityRead(config)), thorough)
  }

  const wirePass = async (desired: NetDesired, errors: NetError[], look: Look) => {
    const thorough = look === 'all'
    refused.clear()
    since.clear()
    const known = look === 'change' ? filters : null
    // One look serves the whole pass: a tap that appears meanwhile is told by the monitor, and waits for the quick lock.
    const reading = known ? undefined : securityRead(config)
    reading?.catch(() => undefined)
    let links = await linkList(config.place ?? {})
    await note(errors, 'host', null, () => tapsUnplug(desired, config, links))
    if (desired.ports.some(port => port.subport) || [...links.values()].some(link => link.kind === 'vlan')) {
      await note(errors, 'host', null, () => subportsSweep(desired.ports, config, links))
      for (const [id, message] of await subportsEnsure(desired.ports, config, links)) errors.push({ kind: 'port', id, message })
      links = await linkList(config.place ?? {})
    }
    for (const network of desired.networks) {
      const key = `peers ${network.id}`
      const hash = digest([network.segmentationId, network.peers])
      await note(errors, 'network', network.id, async () => {
        await bridgeEnsure(network, config, links, !thorough && right.get(key) === hash)
        right.set(key, hash)
      }).then(good => good || right.delete(key))
    }
    const filtered = await note(errors, 'security', null, () => filter(desired, known, reading, thorough || inForce === null))
    if (filtered) inForce = desired
    const failed = new Set(errors.filter(error => error.kind === 'network').map(error => error.id))
    const guests = desired.ports.filter(port => isGuest(port))
    const ready = filtered ? guests.filter(port => !failed.has(port.networkId)) : []
    await note(errors, 'host', null, async () => {
      for (const [id, message] of await limitsEnsure(guests, config, links)) errors.push({ kind: 'port', id, message })
    })
    wiring(ready.filter(port => links.has(tapName(port.id)) && links.get(tapName(port.id))?.master === null))
    const plugged = await tapsPlug(ready, desired, config, links)
    for (const [id, message] of plugged.errors) {
      refused.add(tapName(id))
      wired.delete(tapName(id))
      errors.push({ kind: 'port', id, message })
    }
    for (const port of guests) if (!plugged.statuses.has(port.id)) plugged.statuses.set(port.id, 'DOWN')
    return { statuses: plugged.statuses, links }
  }

  const pass = async (desired: NetDesired, look: Look, signal?: AbortSignal): Promise<NetReport> => {
    const errors: NetError[] = []
    const thorough = look === 'all'
    last = desired
    const { statuses, links } = await quick(() => wirePass(desired, errors, look))
    const ports = new Map(desired.ports.map(port => [port.id, port]))
    const networks = new Map(desired.networks.map(network => [network.id, network]))
    const namespaces = await netnsList()
    const skip = (key: string, netns: string, hash: string) => !thorough && right.get(key) === hash && namespaces.has(netns)

    await sweepNamespaces(desired, namespaces, errors)
    const servers = desired.networks.filter(network => network.dhcp !== null)
    await each(servers, signal, async network => {
      const key = `dhcp ${network.id}`
      const port = ports.get(network.dhcp?.portId ?? '')
      const legs = `dhcp link ${network.id}`
      const hash = digest([{ ...network, peers: [] }, port])
      const wiring = digest([{ ...network, peers: [], dhcp: { ...network.dhcp, hosts: [] } }, port])
      const netns = dhcpNetns(prefix, network.id)
      if (skip(key, netns, hash) && (await dhcpRuns(network.id, netns, config))) return
      const good = await note(errors, 'dhcp', network.id, async () => {
        if (!port) throw new Error(`port ${network.dhcp?.portId} of the DHCP server is not in the desired state`)
        const leg = links.get(tapName(port.id))
        const wired = skip(legs, netns, wiring) && leg?.up === true && leg.master === bridgeOf(network, config)
        await dhcpEnsure(network, port, config, links, wired)
      })
      for (const [made, of] of [
        [key, hash],
        [legs, wiring],
      ] as const) {
        if (good) right.set(made, of)
        else right.delete(made)
      }
    })
    await each(desired.routers, signal, async router => {
      const key = `router ${router.id}`
      const legs = [...router.interfaces, ...(router.gateway ? [router.gateway] : [])]
      const around = legs.map(leg => [{ ...networks.get(leg.networkId), peers: [], dhcp: null }, ports.get(leg.portId)])
      const hash = digest([{ ...router, metadata: router.metadata !== null }, around])
      if (skip(key, routerNetns(prefix, router.id), hash)) return
      if (await note(errors, 'router', router.id, () => routerEnsure(router, desired, config, links))) right.set(key, hash)
      else right.delete(key)
    })
    await serveMetadata(desired, errors)
    const needed = wantedLinks(desired.networks, config)
    const swept = digest([...needed.bridges, ...needed.tunnels].sort())
    if (look !== 'change' || right.get('bridges') !== swept) {
      const sweep = async () => bridgesSweep(desired.networks, config, await linkList(config.place ?? {}))
      if (await note(errors, 'host', null, () => quick(sweep))) right.set('bridges', swept)
      else right.delete('bridges')
    }
    return reportOf(desired, new Map([...statuses, ...since]), errors)
  }

  const sweepNamespaces = async (desired: NetDesired, namespaces: ReadonlySet<string>, errors: NetError[]) => {
    const servers = new Set(desired.networks.filter(network => network.dhcp !== null).map(network => network.id))
    const routers = new Set(desired.routers.map(router => router.id))
    // A file that is no namespace any more keeps the name of one: it goes too.
    for (const { kind, id } of namespaceIds([...namespaces, ...(await netnsStale())], prefix)) {
      if (kind === 'dhcp' && !servers.has(id)) await note(errors, kind, id, () => dhcpRemove(id, config))
      if (kind === 'router' && !routers.has(id)) await note(errors, kind, id, () => routerRemove(id, config))
    }
  }

  const serveMetadata = async (desired: NetDesired, errors: NetError[]) => {
    if (!metadata) return
    const bad = new Set(errors.map(error => error.id))
    const places = metadataPlaces(desired, prefix, hasIpv6()).filter(place => !bad.has(place.netns.slice(-36)))
    for (const [netns, message] of await metadata.ensure(places)) errors.push({ kind: 'metadata', id: netns.slice(-36), message })
  }

  return {
    probe: () => probeNet(config),
    apply: (desired, options) => slow(() => pass(desired, options?.look ?? 'some', options?.signal)),
    wire: names =>
      quick(async () => {
        const desired = inForce
        const told = new Set(names.filter(tap => !refused.has(tap)))
        // A parent's tap brings its subports', of which the monitor tells.
        const carried = (desired?.ports ?? []).filter(port => port.subport && told.has(tapName(port.subport.parentId)))
        if (carried.length > 0) {
          for (const [id, message] of await subportsEnsure(carried, config, await linkList(config.place ?? {})))
            config.log?.warn({ port: id, error: message }, 'subport not made')
        }
        const concerned = (desired?.ports ?? []).filter(port => isGuest(port) && told.has(tapName(port.id)))
        // Told of before a pass plugged it.
        const done = concerned.filter(isWired).map(({ id }) => ({ id, status: 'ACTIVE' as const }))
        const wanted = concerned.filter(port => !isWired(port))
        if (!desired || wanted.length === 0) return done
        const limited = wanted.filter(port => port.qos?.egress.bandwidth).map(port => limitLink(tapName(port.id)))
        if (limited.length === 0 && wanted.every(port => taps.has(tapName(port.id)))) {
          wiring(wanted)
          const statuses = await tapsWire(wanted, desired, config).catch(() => undefined)
          if (statuses) {
            for (const { id, status } of statuses) since.set(id, status)
            return [...done, ...statuses]
          }
          for (const port of wanted) wired.delete(tapName(port.id))
        }
        const found = await Promise.all(
          [...wanted.map(port => tapName(port.id)), ...limited].map(name => linkFetch(config.place ?? {}, name)),
        )
        const links = new Map(found.flatMap(link => (link ? [[link.name, link] as const] : [])))
        const unlimited = await limitsEnsure(wanted, config, links)
        const { statuses, errors } = await tapsPlug(wanted, desired, config, links)
        for (const [id, message] of unlimited) config.log?.warn({ port: id, error: message }, 'port not limited')
        for (const [id, message] of errors) {
          refused.add(tapName(id))
          config.log?.warn({ port: id, error: message }, 'port not wired')
        }
        for (const [id, status] of statuses) since.set(id, status)
        return [...done, ...[...statuses].map(([id, status]) => ({ id, status }))]
      }),
    async watch(heard) {
      const seen = ({ tap, there, plugged }: TapEvent) => {
        const before = !plugged && there && taps.get(tap) !== true && performance.now() < (wired.get(tap) ?? 0)
        if (there) taps.set(tap, plugged)
        else taps.delete(tap)
        if (plugged || before) return
        wired.delete(tap)
        heard(tap, there)
      }
      const stop = await watchTaps(config.place ?? {}, seen, words => config.log?.warn({ words }, 'link monitor started again'))
      stops.push(stop)
      return stop
    },
    inventory: () => inventoryOf(config, last),
    destroy: () =>
      slow(() =>
        quick(async () => {
          await metadata?.close()
          right.clear()
          inForce = null
          filters = null
          return destroyAll(config)
        }),
      ),
    async close() {
      for (const stop of stops.splice(0)) await stop()
      await metadata?.close()
    },
  }
}

/** Runs the work; a failure goes into `errors`. Says whether it went well. */
async function note(
  errors: NetError[],
  kind: NetError['kind'],
  id: string | null,
  work: () => Promise<unknown>,
): Promise<boolean> {
  try {
    await work()
    return true
  } catch (error) {
    errors.push({ kind, id, message: (error as Error).message })
    return false
  }
}

/** One after another, in the order asked. */
export function serial(): <T>(work: () => Promise<T>) => Promise<T> {
  let tail: Promise<unknown> = Promise.resolve()
  return work => {
    const mine = tail.then(work)
    tail = mine.catch(() => undefined)
    return mine
  }
}

async function each<T>(items: readonly T[], signal: AbortSignal | undefined, work: (item: T) => Promise<void>): Promise<void> {
  const rest = [...items]
  const worker = async () => {
    for (let item = rest.shift(); item !== undefined; item = rest.shift()) {
      signal?.throwIfAborted()
      await work(item)
    }
  }
  await Promise.all(Array.from({ length: Math.min(AT_ONCE, items.length) }, worker))
}

const digest = (value: unknown) => createHash('sha256').update(JSON.stringify(value)).digest('base64')
