// A leg: the pair of links by which a namespace of ours (DHCP server, router) takes part in a network. The outer end is plugged into the network's bridge.
import { batch, type Line, type Link, linkFetch } from '#host/net/ip.ts'
import { tapName } from '../names.ts'
import type { NetConfig } from './config.ts'

export interface Leg {
  portId: string
  /** Name inside. */
  inner: string
  mac: string
  mtu: number
  bridge: string
  /** 'ip/length', all that the inner link should have beside its own link-local one. */
  addresses: string[]
}

/**
 * Makes a leg. `host` and `inside` are the links that were read there. Returns the addresses that are new on it (to be announced).
 * @throws RunError
 */
export async function legEnsure(
  leg: Leg,
  netns: string,
  config: NetConfig,
  host: ReadonlyMap<string, Link>,
  inside: ReadonlyMap<string, Link>,
): Promise<string[]> {
  const place = config.place ?? {}
  const outer = tapName(leg.portId)
  let link = inside.get(leg.inner)
  if (!link || !host.has(outer)) {
    const lines: Line[] = []
    // Half a pair is none: the other end went with a namespace.
    if (host.has(outer)) lines.push(['link', 'del', outer])
    if (link) await batch({ netns }, [['link', 'del', leg.inner]])
    lines.push(['link', 'add', outer, 'type', 'veth', 'peer', 'name', leg.inner, 'address', leg.mac, 'netns', netns])
    await batch(place, lines)
    link = undefined
  }
  const there = link ? host.get(outer) : undefined
  const outside: Line[] = there ? [] : [['link', 'set', outer, 'addrgenmode', 'none']]
  if (there?.mtu !== leg.mtu) outside.push(['link', 'set', outer, 'mtu', leg.mtu])
  if (there?.master !== leg.bridge) outside.push(['link', 'set', outer, 'master', leg.bridge])
  if (!there?.up) outside.push(['link', 'set', outer, 'up'])
  await batch(place, outside)

  const lines: Line[] = []
  if (link && link.mac !== leg.mac) lines.push(['link', 'set', leg.inner, 'address', leg.mac])
  if (link?.mtu !== leg.mtu) lines.push(['link', 'set', leg.inner, 'mtu', leg.mtu])
  if (!link?.up) lines.push(['link', 'set', leg.inner, 'up'])
  const { removed, added } = addressDiff(link, leg.addresses)
  lines.push(...removed.map(one => ['addr', 'del', one, 'dev', leg.inner]))
  lines.push(...added.map(one => ['addr', 'add', one, 'dev', leg.inner, ...(one.includes(':') ? ['nodad'] : ['brd', '+'])]))
  await batch({ netns }, lines)
  return added
}

/** What differs between a link's addresses and those wanted; the link-local address that the kernel made is left out. */
export function addressDiff(link: Link | undefined, wanted: readonly string[]): { removed: string[]; added: string[] } {
  const all = (link?.addresses ?? []).map(a => ({ text: `${a.ip}/${a.prefixLength}`, auto: a.ip.startsWith('fe80:') }))
  const have = new Set(all.map(a => a.text))
  return {
    removed: all.filter(a => !a.auto && !wanted.includes(a.text)).map(a => a.text),
    added: wanted.filter(one => !have.has(one)),
  }
}

/** Removes the inner links of these names' kind that are not wanted; the outer ends go with them. */
export async function legsSweep(netns: string, inside: ReadonlyMap<string, Link>, wanted: ReadonlySet<string>): Promise<void> {
  const gone = [...inside.keys()].filter(name => /^(ns|qr|qg)-/.test(name) && !wanted.has(name))
  await batch(
    { netns },
    gone.map(name => ['link', 'del', name]),
  )
}

/** Reads one link of the host anew. */
export const linkNow = (config: NetConfig, name: string): Promise<Link | undefined> => linkFetch(config.place ?? {}, name)
