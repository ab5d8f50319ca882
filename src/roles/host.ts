/** Host agents: of this machine, or pretended ones inside a controller's process. */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { logRuns } from '#host/run.ts'
import { type Config, loadConfig } from '#kit/config.ts'
import { type AgentLink, type DialOptions, dial, memoryWay } from '#kit/link/index.ts'
import type { Log } from '#kit/log.ts'
import type { MetadataSource, NetDriver } from '#services/neutron/agent/driver.ts'
import { networkAgent } from '#services/neutron/agent/link.ts'
import { bandwidthOf, physicalOf } from '#services/neutron/agent/linux/config.ts'
import { linuxNet } from '#services/neutron/agent/linux/driver.ts'
import { memoryNet } from '#services/neutron/agent/memory/driver.ts'
import { neutronSettings } from '#services/neutron/settings.ts'
import type { ComputeDriver } from '#services/nova/agent/driver.ts'
import { memoryDriver, memoryWorld } from '#services/nova/agent/drivers/memory/index.ts'
import { qemuDriver } from '#services/nova/agent/drivers/qemu/index.ts'
import { linkImages, novaAgent } from '#services/nova/agent/link.ts'
import { guestMetadata } from '#services/nova/agent/metadata.ts'
import type { Controller } from './controller.ts'
import type { MachineClaim } from './machine.ts'
import { SETTINGS } from './settings.ts'

/** What an agent does: run guests, or networks alone (a machine for routers and DHCP servers). Guests need networks beside them. */
export type Duty = 'compute' | 'network'

export interface HostOptions {
  name: string
  duties: readonly Duty[]
  /** Where its controllers are. */
  dial: Pick<DialOptions, 'ways' | 'way' | 'onControllers'>
  /** Folder of the agent's own files: guests, journal. */
  folder: string
  configFile: string
  /** This machine's end of tunnels, where the configuration names none; null: none. */
  overlay: string | null
  /** That this machine is this agent's: see machine.ts. Let go of when it stops. */
  machine: MachineClaim
  log: Log
}

type Closer = () => Promise<void>

/** A part of an agent, or all of it. */
export interface Started {
  /** Resolves once a controller knows of the host and what it has: then it can be given work. */
  reported: Promise<unknown>
  /** Guests and networks run on. */
  stop: Closer
}

/** An agent that is ready to work for a controller. */
export interface Ready extends Started {
  /** Connects, once. */
  open(): void
}

/** Makes this machine's agent ready. A controller need not be there for that. */
export async function startHost(options: HostOptions): Promise<Ready> {
  const { name, folder, log, duties } = options
  const config = loadConfig(options.configFile, SETTINGS)
  const link = dial({ host: name, ...options.dial, log, held: true })
  const parts: Started[] = []
  const unlog = logRuns(log)
  // Networks first: a guest's tap that appears is wired at once.
  parts.push(await network(link, networkOf(config, log, { metadata: guestMetadata(link), overlay: options.overlay }), log))
  if (duties.includes('compute')) {
    const nova = join(folder, 'nova')
    mkdirSync(nova, { recursive: true, mode: 0o711 })
    parts.push(await compute(link, qemuDriver({ dataDir: nova, hostname: name, images: linkImages(link), log }), log))
  }
  const last = (): void => {
    unlog()
    options.machine.release()
  }
  return { ...started(link, parts, last), open: () => link.open() }
}

/** Starts pretended hosts inside a controller's process, whose agents have memory in place of machines. */
export async function startSimulatedHosts(controller: Controller, names: readonly string[], log: Log): Promise<Started> {
  const { config } = controller.env
  const hosts = await Promise.all(
    names.map(name => startPretended({ name, dial: { ways: [memoryWay(controller.hosts, name)] }, config, log })),
  )
  return {
    reported: Promise.all(hosts.map(host => host.reported)),
    stop: async () => void (await Promise.all(hosts.map(host => host.stop()))),
  }
}

/** Starts one pretended host. */
export async function startPretended(options: Pick<HostOptions, 'name' | 'dial' | 'log'> & { config: Config }): Promise<Started> {
  const { name, log, config } = options
  const link = dial({ host: name, ...options.dial, log, held: true })
  const bridges = config.of(neutronSettings).bridge_mappings.map(physicalOf)
  const physicalNetworks = Object.fromEntries(bridges.map(([net, p]) => [net, p.kind === 'interface' ? p.interface : p.bridge]))
  const driver = memoryDriver({ world: memoryWorld(), hostname: name })
  const said = config.of(neutronSettings).resource_provider_bandwidths.map(bandwidthOf)
  const pretended = Object.keys(physicalNetworks).map(net => [net, { egress: 10_000_000, ingress: 10_000_000 }] as const)
  const bandwidths = Object.fromEntries([...pretended, ...said])
  const net = memoryNet({ everyTap: true, overlayAddress: '192.0.2.1', physicalNetworks, bandwidths })
  const parts = [await network(link, net, log, PRETENDED), await compute(link, driver, log, PRETENDED)]
  link.open()
  return started(link, parts)
}

/** The driver of this machine's networks, from its configuration. Its files live as long as the namespaces do: until the machine restarts. */
export function networkOf(
  config: Config,
  log: Log,
  { metadata, overlay = null }: { metadata?: MetadataSource; overlay?: string | null } = {},
): NetDriver {
  const { bridge_mappings, local_ip, vxlan_port, dhcp_lease_duration, resource_provider_bandwidths } = config.of(neutronSettings)
  return linuxNet({
    stateDir: '/run/nubo/net',
    overlayAddress: local_ip === '' ? overlay : local_ip,
    vxlanPort: vxlan_port,
    physicalNetworks: Object.fromEntries(bridge_mappings.map(physicalOf)),
    bandwidths: Object.fromEntries(resource_provider_bandwidths.map(bandwidthOf)),
    leaseTime: dhcp_lease_duration,
    metadata,
    log,
  })
}

/** Nothing happens by itself on a pretended host, so it is seldom looked at without a cause: a thousand of them are quiet at rest. */
const PRETENDED = { everySeconds: 1200 }

async function network(link: AgentLink, driver: NetDriver, log: Log, looks: { everySeconds?: number } = {}): Promise<Started> {
  return part(await networkAgent({ link, driver, log, ...looks }), driver)
}

async function compute(
  link: AgentLink,
  driver: ComputeDriver,
  log: Log,
  looks: { everySeconds?: number } = {},
): Promise<Started> {
  await driver.open()
  return part(novaAgent({ link, driver, log, ...looks }), driver)
}

const part = (agent: { reported: Promise<void>; close: Closer }, driver: { close: Closer }): Started => ({
  reported: agent.reported,
  async stop() {
    await agent.close()
    await driver.close()
  },
})

const started = (link: AgentLink, parts: readonly Started[], last: () => unknown = () => {}): Started => ({
  reported: Promise.all(parts.map(one => one.reported)),
  async stop() {
    for (const one of parts) await one.stop()
    await last()
    await link.close()
  },
})
