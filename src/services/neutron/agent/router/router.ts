// One router: a namespace with a leg into each of its networks and one to the outside, forwarding between them.
import { mkdir, rm } from 'node:fs/promises'
import { batch, type Line, type Link, linkList, type Route, routeList } from '#host/net/ip.ts'
import { netnsDelete, netnsEnsure, processEnd } from '#host/net/netns.ts'
import { nftDiff, nftRead } from '#host/net/nft.ts'
import { sysctlEnsure } from '#host/net/sysctl.ts'
import { RunError, run } from '#host/run.ts'
import type { DesiredNetwork, DesiredRouter, DesiredRouterPort, NetDesired } from '../desired.ts'
import { bridgeOf } from '../linux/bridges.ts'
import type { NetConfig } from '../linux/config.ts'
import { daemonPid, readText, write } from '../linux/daemon.ts'
import { legEnsure, legsSweep } from '../linux/legs.ts'
import { gatewayLink, routerLink, routerNetns, TABLE } from '../names.ts'
import { radvdConf } from './radvd.ts'
import { routerTable } from './tables.ts'

export const routerFolder = (config: NetConfig, routerId: string): string => `${config.stateDir}/router/${routerId}`

const SETTINGS = {
  'net/ipv4/ip_forward': 1,
  'net/ipv6/conf/all/forwarding': 1,
  'net/ipv6/conf/default/accept_ra': 0,
  'net/ipv4/conf/all/arp_notify': 1,
  // Answers leave by the leg that knows the way, which need not be the one by which the question came.
  'net/ipv4/conf/all/rp_filter': 0,
  'net/ipv4/conf/default/rp_filter': 0,
}

/** Makes a router as wanted. @throws with the tool's words. */
export async function routerEnsure(
  router: DesiredRouter,
  desired: NetDesired,
  config: NetConfig,
  host: ReadonlyMap<string, Link>,
): Promise<void> {
  const netns = routerNetns(config.prefix ?? '', router.id)
  const networks = new Map(desired.networks.map(network => [network.id, network]))
  await netnsEnsure(config.place ?? {}, netns)
  await sysctlEnsure({ netns }, SETTINGS)
  const inside = await linkList({ netns })
  const legs: [string, DesiredRouterPort, string[]][] = router.interfaces.map(leg => [routerLink(leg.portId), leg, []])
  if (router.gateway) {
    const floating = [...new Set([...router.floatingIps, ...router.portForwardings].map(one => one.floating))]
    legs.push([gatewayLink(router.gateway.portId), router.gateway, floating.map(ip => `${ip}/${ip.includes(':') ? 128 : 32}`)])
  }
  await legsSweep(netns, inside, new Set(legs.map(([name]) => name)))
  await loopback(router, netns, inside)
  // Translation stands before the addresses are announced, so that no packet slips by untranslated.
  const missing = await translate(router, networks, netns)
  const news: [string, string[]][] = []
  for (const [inner, leg, more] of legs) {
    const network = networks.get(leg.networkId)
    if (!network) throw new Error(`network ${leg.networkId} of port ${leg.portId} is not in the desired state`)
    const mac = desired.ports.find(port => port.id === leg.portId)?.mac
    if (!mac) throw new Error(`port ${leg.portId} is not in the desired state`)
    const addresses = [...leg.addresses.map(one => `${one.ip}/${one.prefixLength}`), ...more]
    const whole = { portId: leg.portId, inner, mac, mtu: network.mtu, bridge: bridgeOf(network, config), addresses }
    news.push([inner, await legEnsure(whole, netns, config, host, inside)])
  }
  await routesEnsure(router, netns)
  await advertise(router, networks, netns, config)
  for (const [inner, added] of news) announce(netns, inner, added, config)
  if (missing) throw missing
}

async function loopback(router: DesiredRouter, netns: string, inside: ReadonlyMap<string, Link>): Promise<void> {
  const have = inside.get('lo')?.addresses.some(address => address.ip === '169.254.169.254') ?? false
  if (have === (router.metadata !== null)) return
  await batch({ netns }, [['addr', have ? 'del' : 'add', '169.254.169.254/32', 'dev', 'lo']])
}

/** Translates addresses. Gives back what keeps the helpers from being there, without which all else is. */
async function translate(
  router: DesiredRouter,
  networks: ReadonlyMap<string, DesiredNetwork>,
  netns: string,
): Promise<RunError | null> {
  const actual = await nftRead({ netns }, 'ip', TABLE)
  const table = routerTable(router, networks)
  const script = nftDiff(table, actual)
  if (script === '') return null
  try {
    await run(['nft', '-f', '-'], { netns, input: script })
  } catch (error) {
    if (!router.helpers?.length || !(error instanceof RunError)) throw error
    // A kernel without a helper.
    await translate({ ...router, helpers: [] }, networks, netns)
    return error
  }
  // Connections through a floating address that now leads elsewhere would go on to the old place.
  const now = table.sets.get('floating')?.elements
  for (const [floating, fixed] of actual?.sets.get('floating') ?? []) {
    if (now?.get(floating) === fixed) continue
    for (const side of ['-d', '-q']) await run(['conntrack', '-D', '-f', 'ipv4', side, floating], { netns, codes: [0, 1] })
  }
  return null
}

interface Wanted {
  version: 4 | 6
  destination: string
  gateways: string[]
  device: string | null
}

async function routesEnsure(router: DesiredRouter, netns: string): Promise<void> {
  const wanted: Wanted[] = []
  for (const version of [4, 6] as const) {
    const gateways = (router.gateway?.gatewayIps ?? []).filter(ip => ip.includes(':') === (version === 6))
    const device = router.gateway ? gatewayLink(router.gateway.portId) : null
    if (gateways.length > 0) wanted.push({ version, destination: 'default', gateways, device })
    const extra = new Map<string, string[]>()
    for (const { destination, nexthop } of router.routes) {
      if (destination.includes(':') !== (version === 6)) continue
      // A default route of the user's own takes the place of the gateway's.
      const key = /^(0\.0\.0\.0|::)\/0$/.test(destination) ? 'default' : destination
      extra.set(key, [...(extra.get(key) ?? []), nexthop])
    }
    for (const [destination, hops] of extra) {
      const same = wanted.findIndex(one => one.version === version && one.destination === destination)
      if (same >= 0) wanted.splice(same, 1)
      wanted.push({ version, destination, gateways: hops.sort(), device: null })
    }
  }
  for (const version of [4, 6] as const) {
    const have = (await routeList({ netns }, version)).filter(route => route.protocol === 'static' && route.scope !== 'link')
    const want = wanted.filter(one => one.version === version)
    await batch({ netns }, routeLines(version, want, have))
  }
}

function routeLines(version: 4 | 6, wanted: readonly Wanted[], have: readonly Route[]): Line[] {
  const text = (destination: string) => destination.replace(/\/(32|128)$/, '')
  const same = (a: Wanted, b: Route) =>
    text(a.destination) === text(b.destination) &&
    a.gateways.join() === [...b.gateways].sort().join() &&
    (a.device === null || b.device === a.device)
  // In a batch the version shows by the destination alone.
  const whole = (destination: string) => (destination === 'default' ? (version === 4 ? '0.0.0.0/0' : '::/0') : destination)
  const gone = have.filter(route => !wanted.some(one => text(one.destination) === text(route.destination)))
  return [
    ...gone.map(route => ['route', 'del', whole(route.destination), 'proto', 'static']),
    ...wanted
      .filter(one => !have.some(route => same(one, route)))
      .map(({ destination, gateways, device }) => [
        'route',
        'replace',
        whole(destination),
        'proto',
        'static',
        ...(gateways.length === 1
          ? // The gateway of an outside network may lie beyond the subnet.
            ['via', gateways[0] as string, ...(device ? ['dev', device, 'onlink'] : [])]
          : gateways.flatMap(ip => ['nexthop', 'via', ip])),
      ]),
  ]
}

async function advertise(
  router: DesiredRouter,
  networks: ReadonlyMap<string, DesiredNetwork>,
  netns: string,
  config: NetConfig,
): Promise<void> {
  const folder = routerFolder(config, router.id)
  const conf = radvdConf(router, networks)
  const argument = `${folder}/radvd.conf`
  const pid = await daemonPid(`${folder}/radvd.pid`, argument, netns)
  if (conf === null) {
    if (pid !== null) await processEnd(pid)
    await rm(folder, { recursive: true, force: true })
    return
  }
  await mkdir(folder, { recursive: true, mode: 0o755 })
  await write(argument, conf)
  // Written when radvd has read it, as in dhcp/server.ts.
  const changed = (await readText(`${folder}/loaded`)) !== conf
  if (pid === null)
    await run(['radvd', '-C', argument, '-p', `${folder}/radvd.pid`, '-m', 'syslog'], { netns, timeoutMs: 15_000 })
  else if (changed) process.kill(pid, 'SIGHUP')
  if (pid === null || changed) await write(`${folder}/loaded`, conf)
}

/** Tells the neighbours of new addresses, in the background: nobody needs to wait, and a network without listeners is no error. */
function announce(netns: string, link: string, added: readonly string[], config: NetConfig): void {
  for (const one of added) {
    const ip = one.split('/')[0] as string
    if (ip.includes(':')) continue
    run(['arping', '-U', '-c', '2', '-w', '3', '-I', link, ip], { netns, codes: [0, 1] }).catch((error: RunError) =>
      config.log?.debug({ err: error, netns, ip }, 'address not announced'),
    )
  }
}

/** Removes a router with its namespace and files. */
export async function routerRemove(routerId: string, config: NetConfig): Promise<void> {
  await netnsDelete(routerNetns(config.prefix ?? '', routerId))
  await rm(routerFolder(config, routerId), { recursive: true, force: true })
}
