// Guests' taps: found by name, plugged into their network's bridge when its filters are in force, unplugged when nobody wants them here.
import { batch, type Line, type Link } from '#host/net/ip.ts'
import type { DesiredPort, NetDesired } from '../desired.ts'
import { TAP, tapName } from '../names.ts'
import type { PortStatus } from '../report.ts'
import { bridgeOf, isOurBridge } from './bridges.ts'
import type { NetConfig } from './config.ts'

/** Whether a port's link is a guest's, made by whoever runs the guest. The other kinds are legs, made by us. */
export const isGuest = (port: DesiredPort): boolean => !port.deviceOwner.startsWith('network:')

/** Unplugs the taps that are in a bridge of ours and are not wanted there. Before filters change: what is plugged is filtered. */
export async function tapsUnplug(desired: NetDesired, config: NetConfig, links: ReadonlyMap<string, Link>): Promise<void> {
  const wanted = new Set(desired.ports.filter(port => !isGuest(port) || port.adminStateUp).map(port => tapName(port.id)))
  const lines = [...links.values()]
    .filter(link => TAP.test(link.name) && link.master !== null && isOurBridge(link.master, config))
    .filter(link => !wanted.has(link.name))
    .flatMap(link => [
      ['link', 'set', link.name, 'nomaster'],
      ['link', 'set', link.name, 'down'],
    ])
  await batch(config.place ?? {}, lines)
}

/**
 * Plugs the taps of these ports that are there and not plugged yet.
 * Gives each port's status, and the words of what failed.
 */
export async function tapsPlug(
  ports: readonly DesiredPort[],
  desired: NetDesired,
  config: NetConfig,
  links: ReadonlyMap<string, Link>,
): Promise<{ statuses: Map<string, PortStatus>; errors: Map<string, string> }> {
  const networks = new Map(desired.networks.map(network => [network.id, network]))
  const statuses = new Map<string, PortStatus>()
  const errors = new Map<string, string>()
  const work: { port: DesiredPort; lines: Line[] }[] = []
  for (const port of ports) {
    const name = tapName(port.id)
    const link = links.get(name)
    const network = networks.get(port.networkId)
    statuses.set(port.id, 'DOWN')
    if (!port.adminStateUp) continue
    if (!network) {
      errors.set(port.id, `network ${port.networkId} is not in the desired state`)
      continue
    }
    statuses.set(port.id, link ? 'ACTIVE' : 'BUILD')
    if (!link) continue
    try {
      const lines = plugLines(link, bridgeOf(network, config), network.mtu)
      if (lines.length > 0) work.push({ port, lines })
    } catch (error) {
      statuses.set(port.id, 'DOWN')
      errors.set(port.id, (error as Error).message)
    }
  }
  const place = config.place ?? {}
  try {
    await batch(
      place,
      work.flatMap(item => item.lines),
    )
  } catch {
    // One line failed and the batch stopped there: each port by itself, so that the others work and the one says why.
    for (const { port, lines } of work) {
      await batch(place, lines).catch((error: Error) => {
        statuses.set(port.id, 'DOWN')
        errors.set(port.id, error.message)
      })
    }
  }
  return { statuses, errors }
}

/**
 * Plugs the taps of these ports, all of them there and none looked at before: for a boot, which waits for it. Gives each port's status.
 * @throws RunError, Error when one cannot be plugged as it is; those before it are then plugged.
 */
export async function tapsWire(
  ports: readonly DesiredPort[],
  desired: NetDesired,
  config: NetConfig,
): Promise<{ id: string; status: PortStatus }[]> {
  const networks = new Map(desired.networks.map(network => [network.id, network]))
  const up = ports.filter(port => port.adminStateUp)
  const lines = up.flatMap(port => {
    const network = networks.get(port.networkId)
    if (!network) throw new Error(`network ${port.networkId} is not in the desired state`)
    const bare = { name: tapName(port.id), mtu: null, master: null, up: false }
    return plugLines(bare, bridgeOf(network, config), network.mtu)
  })
  await batch(config.place ?? {}, lines)
  return ports.map(({ id, adminStateUp }) => ({ id, status: adminStateUp ? 'ACTIVE' : 'DOWN' }))
}

function plugLines(link: Pick<Link, 'name' | 'master' | 'up'> & { mtu: number | null }, bridge: string, mtu: number): Line[] {
  return [
    ...(link.mtu === mtu ? [] : [['link', 'set', link.name, 'mtu', mtu]]),
    ...(link.master === bridge
      ? []
      : [
          ['link', 'set', link.name, 'addrgenmode', 'none'],
          ['link', 'set', link.name, 'master', bridge],
        ]),
    ...(link.up ? [] : [['link', 'set', link.name, 'up']]),
  ]
}
