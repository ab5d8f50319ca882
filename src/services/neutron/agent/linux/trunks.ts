// Subports: a VLAN link on the parent's tap, named as the subport's own tap would be. Tagged frames leave the parent's path before its bridge
// sees them; from there on a subport is plugged and filtered as any guest's tap.
import { batch, type Line, type Link } from '#host/net/ip.ts'
import type { DesiredPort } from '../desired.ts'
import { TAP, tapName } from '../names.ts'
import type { NetConfig } from './config.ts'

/**
 * Makes the VLAN links of these subports whose parent's tap is there, and gives the words of what failed, by port. `links` is what the host has;
 * a link that is made is heard of by the monitor of taps, as any guest's.
 */
export async function subportsEnsure(
  ports: readonly DesiredPort[],
  config: NetConfig,
  links: ReadonlyMap<string, Link>,
): Promise<Map<string, string>> {
  const errors = new Map<string, string>()
  for (const { id, subport } of ports) {
    const parent = subport ? tapName(subport.parentId) : ''
    if (!subport || !links.has(parent)) continue
    const name = tapName(id)
    const there = links.get(name)
    if (there && isSubport(there) && there.parent === parent && there.data.id === subport.tag) continue
    const lines: Line[] = there ? [['link', 'del', name]] : []
    lines.push(['link', 'add', 'link', parent, 'name', name, 'type', 'vlan', 'id', subport.tag])
    await batch(config.place ?? {}, lines).catch((error: Error) =>
      errors.set(id, `VLAN ${subport.tag} on ${parent}: ${error.message}`),
    )
  }
  return errors
}

/** Removes VLAN links on taps that no subport wants. */
export async function subportsSweep(
  ports: readonly DesiredPort[],
  config: NetConfig,
  links: ReadonlyMap<string, Link>,
): Promise<void> {
  const wanted = new Set(ports.filter(port => port.subport).map(port => tapName(port.id)))
  const gone = [...links.values()].filter(link => isSubport(link) && !wanted.has(link.name))
  await batch(
    config.place ?? {},
    gone.map(link => ['link', 'del', link.name]),
  )
}

const isSubport = (link: Link): boolean => link.kind === 'vlan' && TAP.test(link.name) && TAP.test(link.parent ?? '')
