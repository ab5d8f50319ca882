// One network's DHCP server: a dnsmasq in a namespace with a leg into the network. It outlives this process and is found again by its pid file.
import { createHash } from 'node:crypto'
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { batch, type Link, linkList } from '#host/net/ip.ts'
import { netnsDelete, netnsEnsure, netnsPids, processEnd } from '#host/net/netns.ts'
import { hasIpv6, sysctlEnsure } from '#host/net/sysctl.ts'
import { run } from '#host/run.ts'
import type { DesiredNetwork, DesiredPort } from '../desired.ts'
import { bridgeOf } from '../linux/bridges.ts'
import type { NetConfig } from '../linux/config.ts'
import { daemonPid, readText, write } from '../linux/daemon.ts'
import { legEnsure, legsSweep } from '../linux/legs.ts'
import { METADATA_V4, METADATA_V6 } from '../metadata/places.ts'
import { dhcpLink, dhcpNetns } from '../names.ts'
import { type DhcpFiles, dhcpFiles, parseLeases, staleLeases } from './files.ts'

const METADATA = [`${METADATA_V4}/32`, ...(hasIpv6() ? [`${METADATA_V6}/64`] : [])]

export const dhcpFolder = (config: NetConfig, networkId: string): string => `${config.stateDir}/dhcp/${networkId}`

/**
 * Makes the server of `network` (whose port on the network is `port`) run as wanted. `wired`: its namespace and link are known to be right, and only what
 * it serves has changed. @throws with the tool's words.
 */
export async function dhcpEnsure(
  network: DesiredNetwork,
  port: DesiredPort,
  config: NetConfig,
  host: ReadonlyMap<string, Link>,
  wired = false,
): Promise<void> {
  const netns = dhcpNetns(config.prefix ?? '', network.id)
  const link = dhcpLink(port.id)
  if (!wired) await wire(network, port, config, host)

  const folder = dhcpFolder(config, network.id)
  await mkdir(folder, { recursive: true, mode: 0o755 })
  const files = dhcpFiles(network, port, folder, link, config.leaseTime ?? 86_400)
  for (const [name, text] of Object.entries(files)) await write(`${folder}/${name}`, text)
  await serve(folder, netns, network, link, files)
}

/** Makes the namespace of the server, and its link there. */
async function wire(
  network: DesiredNetwork,
  port: DesiredPort,
  config: NetConfig,
  host: ReadonlyMap<string, Link>,
): Promise<void> {
  const netns = dhcpNetns(config.prefix ?? '', network.id)
  const link = dhcpLink(port.id)
  await netnsEnsure(config.place ?? {}, netns)
  await sysctlEnsure({ netns }, { 'net/ipv6/conf/default/accept_ra': 0, 'net/ipv4/ip_forward': 0 })
  const inside = await linkList({ netns })
  const addresses = port.fixedIps.flatMap(({ subnetId, ip }) => {
    const length = network.subnets.find(subnet => subnet.id === subnetId)?.cidr.split('/')[1]
    return length ? [`${ip}/${length}`] : []
  })
  // A guest without a router asks for the metadata address on its own wire, by ARP.
  const metadata = network.dhcp?.metadata ? METADATA : []
  await legsSweep(netns, inside, new Set([link]))
  const leg = {
    portId: port.id,
    inner: link,
    mac: port.mac,
    mtu: network.mtu,
    bridge: bridgeOf(network, config),
    addresses: [...addresses, ...metadata],
  }
  await legEnsure(leg, netns, config, host, inside)
  await defaultRoute(network, port, netns, link)
}

/**
 * Makes dnsmasq run with these files, which are written already. What it has read is kept in `loaded`, written when it has: if this process ends
 * between writing a file and telling dnsmasq, the next look sees the difference.
 */
async function serve(folder: string, netns: string, network: DesiredNetwork, link: string, files: DhcpFiles): Promise<void> {
  const now = {
    conf: digest(files.conf),
    rest: digest(files.hosts + files.opts + files.names),
    portOptions: /^tag:port-/m.test(files.opts),
  }
  const loaded = JSON.parse((await readText(`${folder}/loaded`)) ?? '{}') as Partial<typeof now>
  const pid = await daemonPid(`${folder}/pid`, `${folder}/conf`, netns)
  const stale = loaded.rest !== now.rest
  if (pid !== null && loaded.conf === now.conf && !stale) return
  // dnsmasq 2.90 (and others, as Ironic's users report) frees a boot file's name that it does not own when it reads options again, and dies:
  // options of ports are few, and a restart takes some milliseconds.
  if (pid !== null && loaded.conf === now.conf && loaded.portOptions === false) {
    await releaseStale(network, netns, link, folder)
    process.kill(pid, 'SIGHUP')
  } else {
    if (pid !== null) await processEnd(pid)
    await start(folder, netns, network)
  }
  await write(`${folder}/loaded`, JSON.stringify(now))
}

/** Whether the server of a network runs, told without a command. */
export async function dhcpRuns(networkId: string, netns: string, config: NetConfig): Promise<boolean> {
  const folder = dhcpFolder(config, networkId)
  return (await daemonPid(`${folder}/pid`, `${folder}/conf`, netns)) !== null
}

const digest = (text: string) => createHash('sha256').update(text).digest('base64')

/** With a gateway the server can reach its forwarders, and guests of routed subnets it does not share a wire with. */
async function defaultRoute(network: DesiredNetwork, port: DesiredPort, netns: string, link: string): Promise<void> {
  const own = new Set(port.fixedIps.map(one => one.subnetId))
  for (const version of [4, 6] as const) {
    const gateway = network.subnets.find(
      subnet => own.has(subnet.id) && subnet.ipVersion === version && subnet.gatewayIp,
    )?.gatewayIp
    if (gateway)
      await batch({ netns }, [['route', 'replace', version === 4 ? '0.0.0.0/0' : '::/0', 'via', gateway, 'dev', link, 'onlink']])
  }
}

async function start(folder: string, netns: string, network: DesiredNetwork): Promise<void> {
  // A server whose pid file was lost would hold the port.
  for (const stray of await netnsPids(netns))
    if ((await readText(`/proc/${stray}/cmdline`))?.startsWith('dnsmasq')) await processEnd(stray)
  // Leases that nobody holds any more would block their addresses.
  const leases = await readText(`${folder}/leases`)
  if (leases !== null) {
    const stale = new Set(staleLeases(parseLeases(leases), network.dhcp?.hosts ?? []).map(lease => lease.ip))
    const kept = leases.split('\n').filter(line => !stale.has(line.split(' ')[2] ?? ''))
    await writeFile(`${folder}/leases`, kept.join('\n'))
  }
  await rm(`${folder}/pid`, { force: true })
  // It drops to 'nobody' and goes to the background when it listens: from then on it answers.
  await run(['dnsmasq', `--conf-file=${folder}/conf`, '--user=nobody'], { netns, timeoutMs: 15_000 })
}

/** Hands back leases of addresses that changed hands: dnsmasq keeps them in memory and would not give them to the new owner. */
async function releaseStale(network: DesiredNetwork, netns: string, link: string, folder: string): Promise<void> {
  const text = await readText(`${folder}/leases`)
  for (const lease of staleLeases(parseLeases(text ?? ''), network.dhcp?.hosts ?? [])) {
    await run(['dhcp_release', link, lease.ip, lease.mac, ...(lease.clientId ? [lease.clientId] : [])], { netns })
  }
}

/** Removes a network's DHCP server with its namespace and files. */
export async function dhcpRemove(networkId: string, config: NetConfig): Promise<void> {
  await netnsDelete(dhcpNetns(config.prefix ?? '', networkId))
  await rm(dhcpFolder(config, networkId), { recursive: true, force: true })
}
