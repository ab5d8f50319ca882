// What of ours is on a host, and its removal. Ours is told by name: bridges, tunnels, taps, namespaces and tables are named as only we name them.
import { readdir, rm } from 'node:fs/promises'
import { batch, type Link, linkList } from '#host/net/ip.ts'
import { netnsList, netnsPids } from '#host/net/netns.ts'
import { nftDelete, nftRead } from '#host/net/nft.ts'
import type { NetThing } from '../../verbs.ts'
import type { NetDesired } from '../desired.ts'
import { dhcpRemove } from '../dhcp/server.ts'
import { BRIDGE, bridgeName, dhcpNetns, LIMIT, limitLink, routerNetns, TABLE, TAP, tapName } from '../names.ts'
import { routerRemove } from '../router/router.ts'
import { isOurBridge, isOurTunnel, wantedLinks } from './bridges.ts'
import type { NetConfig } from './config.ts'
import { readText } from './daemon.ts'
import { limitsEnsure } from './limits.ts'

const UUID = '[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}'

/** Which of these namespaces are ours, and of what. */
export function namespaceIds(names: Iterable<string>, prefix: string): { name: string; kind: 'dhcp' | 'router'; id: string }[] {
  const pattern = new RegExp(`^${prefix.replace(/[^\w-]/g, '\\$&')}q(dhcp|router)-(${UUID})$`)
  return [...names].flatMap(name => {
    const found = pattern.exec(name)
    return found ? [{ name, kind: found[1] as 'dhcp' | 'router', id: found[2] as string }] : []
  })
}

function isOurLink(link: Link, config: NetConfig): boolean {
  if (link.kind === 'bridge') return isOurBridge(link.name, config)
  if (link.kind === 'vxlan') return isOurTunnel(link, config)
  if (link.kind === 'vlan') return link.master !== null && BRIDGE.test(link.master)
  return TAP.test(link.name) || LIMIT.test(link.name)
}

/** Everything of ours on the host; `desired` (null: nothing) says what is wanted. */
export async function inventoryOf(config: NetConfig, desired: NetDesired | null): Promise<NetThing[]> {
  const place = config.place ?? {}
  const things: NetThing[] = []
  const { bridges, tunnels } = wantedLinks(desired?.networks ?? [], config)
  const taps = new Set((desired?.ports ?? []).map(port => tapName(port.id)))
  for (const port of desired?.ports ?? []) if (port.qos?.egress.bandwidth) taps.add(limitLink(tapName(port.id)))
  const ids = new Map((desired?.networks ?? []).map(network => [bridgeName(network.id), network.id]))
  for (const link of (await linkList(place)).values()) {
    if (!isOurLink(link, config)) continue
    const tagged = link.kind === 'vlan' && link.master !== null && bridges.has(link.master)
    const wanted = bridges.has(link.name) || tunnels.has(link.name) || taps.has(link.name) || tagged
    const id = ids.get(link.name) ?? (/^(tap|brq|ifb)/.test(link.name) ? link.name.slice(3) : null)
    things.push({ kind: link.kind === 'bridge' ? 'bridge' : 'link', name: link.name, id, wanted })
  }
  const prefix = config.prefix ?? ''
  const spaces = new Set([
    ...(desired?.networks ?? []).filter(network => network.dhcp).map(network => dhcpNetns(prefix, network.id)),
    ...(desired?.routers ?? []).map(router => routerNetns(prefix, router.id)),
  ])
  for (const { name, id } of namespaceIds(await netnsList(), prefix)) {
    things.push({ kind: 'netns', name, id, wanted: spaces.has(name) })
    for (const pid of await netnsPids(name)) {
      const program = (await readText(`/proc/${pid}/comm`))?.trim()
      if (program === 'dnsmasq' || program === 'radvd')
        things.push({ kind: 'process', name: `${pid} ${program}`, id, wanted: spaces.has(name) })
    }
  }
  for (const family of ['bridge', 'inet'] as const) {
    if (await nftRead(place, family, TABLE))
      things.push({ kind: 'table', name: `${family} ${TABLE}`, id: null, wanted: (desired?.networks.length ?? 0) > 0 })
  }
  for (const kind of ['dhcp', 'router'] as const) {
    const folder = `${config.stateDir}/${kind}`
    for (const id of await readdir(folder).catch(() => [])) {
      const name = kind === 'dhcp' ? dhcpNetns(prefix, id) : routerNetns(prefix, id)
      things.push({ kind: 'folder', name: `${folder}/${id}`, id, wanted: spaces.has(name) })
    }
  }
  return things
}

/** Removes everything of ours; guests' taps are taken out of their bridges and left to whoever made them. Gives what there was. */
export async function destroyAll(config: NetConfig): Promise<NetThing[]> {
  const place = config.place ?? {}
  const things = await inventoryOf(config, null)
  for (const { kind, id } of namespaceIds(await netnsList(), config.prefix ?? '')) {
    if (kind === 'dhcp') await dhcpRemove(id, config)
    else await routerRemove(id, config)
  }
  // The outer ends of our own legs went with their namespaces: what is named as a tap now is a guest's.
  const links = [...(await linkList(place)).values()].filter(link => isOurLink(link, config))
  await batch(place, [
    // Closed before the filters go.
    ...links
      .filter(link => TAP.test(link.name) && link.master !== null)
      .flatMap(link => [
        ['link', 'set', link.name, 'nomaster'],
        ['link', 'set', link.name, 'down'],
      ]),
    ...links.filter(link => !TAP.test(link.name) && !LIMIT.test(link.name)).map(link => ['link', 'del', link.name]),
  ])
  const unlimited = await limitsEnsure([], config, await linkList(place))
  if (unlimited.size > 0) throw new Error([...unlimited.values()].join('; '))
  await nftDelete(place, 'bridge', TABLE)
  await nftDelete(place, 'inet', TABLE)
  for (const kind of ['dhcp', 'router']) await rm(`${config.stateDir}/${kind}`, { recursive: true, force: true })
  return things.filter(thing => !(thing.kind === 'link' && links.some(link => link.name === thing.name && TAP.test(link.name))))
}
