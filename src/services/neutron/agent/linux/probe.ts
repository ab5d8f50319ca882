// What a host can do for networks: tried in a namespace that is thrown away, not guessed from versions.
import { createHash } from 'node:crypto'
import { mkdir, stat } from 'node:fs/promises'
import { release, version } from 'node:os'
import { join } from 'node:path'
import { getuid } from 'node:process'
import { netnsDelete, netnsEnsure } from '#host/net/netns.ts'
import { programPath } from '#host/programs.ts'
import { type RunError, run } from '#host/run.ts'
import type { NetFacts } from '../desired.ts'
import { TABLE } from '../names.ts'
import type { NetConfig } from './config.ts'
import { readText, write } from './daemon.ts'

const TRIALS: Record<string, string[]> = {
  bridge: ['ip', 'link', 'add', 'pbr', 'type', 'bridge'],
  'bridge-netfilter': ['ip', 'link', 'set', 'pbr', 'type', 'bridge', 'nf_call_iptables', '1'],
  'vlan-filtering': ['ip', 'link', 'set', 'pbr', 'type', 'bridge', 'vlan_filtering', '1'],
  veth: ['ip', 'link', 'add', 'pv0', 'type', 'veth', 'peer', 'name', 'pv1'],
  vxlan: ['ip', 'link', 'add', 'pvx', 'type', 'vxlan', 'id', '1', 'dstport', '4789', 'local', '127.0.0.1', 'nolearning'],
  vlan: ['ip', 'link', 'add', 'link', 'pv0', 'name', 'pv0.7', 'type', 'vlan', 'id', '7'],
  tbf: ['tc', 'qdisc', 'add', 'dev', 'pv0', 'root', 'tbf', 'rate', '1mbit', 'burst', '10kb', 'latency', '50ms'],
  ifb: ['ip', 'link', 'add', 'pifb', 'type', 'ifb'],
  'tc-ingress': ['tc', 'qdisc', 'add', 'dev', 'pv0', 'handle', 'ffff:', 'ingress'],
  'tc-redirect': [
    ...['tc', 'filter', 'add', 'dev', 'pv0', 'parent', 'ffff:', 'protocol', 'all', 'prio', '1', 'u32', 'match', 'u32', '0', '0'],
    ...['action', 'mirred', 'egress', 'redirect', 'dev', 'pifb'],
  ],
  tun: ['ip', 'tuntap', 'add', 'dev', 'ptap', 'mode', 'tap'],
  nftables: ['nft', 'add', 'table', 'inet', 'probe'],
  'nftables-bridge': ['nft', 'add', 'table', 'bridge', 'probe'],
  'nftables-bridge-conntrack': ['nft', 'add table bridge p2; add chain bridge p2 c; add rule bridge p2 c ct state new accept'],
  conntrack: ['conntrack', '-L'],
}

const NEEDED: Record<string, string> = {
  bridge: 'bridges (kernel module bridge)',
  'bridge-netfilter': 'IP filters on bridges (kernel module br_netfilter)',
  veth: 'pairs of links (kernel module veth)',
  tun: 'taps (kernel module tun)',
  nftables: 'nftables (kernel module nf_tables)',
  'nftables-bridge': 'nftables on bridges (kernel module nf_tables)',
  conntrack: 'connection tracking (kernel module nf_conntrack_netlink)',
}

const TOOLS: Record<string, { argv: string[]; package: string; needed: boolean }> = {
  ip: { argv: ['ip', '-V'], package: 'iproute2', needed: true },
  nft: { argv: ['nft', '--version'], package: 'nftables', needed: true },
  dnsmasq: { argv: ['dnsmasq', '--version'], package: 'dnsmasq-base', needed: true },
  dhcp_release: { argv: ['dhcp_release'], package: 'dnsmasq-utils', needed: true },
  conntrack: { argv: ['conntrack', '-V'], package: 'conntrack', needed: true },
  arping: { argv: ['arping', '-V'], package: 'iputils-arping', needed: true },
  nsenter: { argv: ['nsenter', '--version'], package: 'util-linux', needed: true },
  sysctl: { argv: ['sysctl', '--version'], package: 'procps', needed: true },
  radvd: { argv: ['radvd', '--version'], package: 'radvd', needed: false },
}

type Tried = Pick<NetFacts, 'features' | 'tools' | 'problems'>

/**
 * Probes tools and kernel. Needs root; without it everything about the kernel is false. What was found is kept beside the agent's other files, which a
 * reboot takes away, and holds while kernel and tools are the same: a probe is fifty commands.
 */
export async function probeNet(config: NetConfig): Promise<NetFacts> {
  const file = join(config.stateDir, 'probe.json')
  const of = await machineMark()
  const kept = JSON.parse((await readText(file)) ?? '{}') as { of?: string; tried?: Tried }
  const tried = kept.tried !== undefined && kept.of === of ? kept.tried : await tryAll(config)
  if (tried !== kept.tried) {
    await mkdir(config.stateDir, { recursive: true, mode: 0o755 })
    await write(file, JSON.stringify({ of, tried }))
  }
  return {
    ...tried,
    problems: [...tried.problems, ...(tried.tools.nft === null ? [] : await droppingForward(config))],
    overlayAddress: config.overlayAddress,
    bandwidths: config.bandwidths ?? {},
    physicalNetworks: Object.fromEntries(
      Object.entries(config.physicalNetworks).map(([name, p]) => [name, p.kind === 'interface' ? p.interface : p.bridge]),
    ),
  }
}

/** What changes when the kernel or a tool does. */
async function machineMark(): Promise<string> {
  const tools = Object.values(TOOLS).map(({ argv }) => programPath(argv[0]!))
  const times = await Promise.all(tools.map(async path => path && `${path} ${(await stat(path)).mtimeMs}`))
  return createHash('sha256')
    .update([release(), version(), getuid?.(), ...times].join('\n'))
    .digest('base64')
}

async function tryAll(config: NetConfig): Promise<Tried> {
  const facts: Tried = { features: {}, tools: {}, problems: [] }
  for (const [name, tool] of Object.entries(TOOLS)) {
    facts.tools[name] = await versionOf(tool.argv)
    if (facts.tools[name] !== null) continue
    const use = tool.needed ? 'networks do not work without it' : 'IPv6 router advertisements do not work without it'
    facts.problems.push(`${name} is missing: apt-get install ${tool.package} (${use})`)
  }
  if (facts.tools.ip === null || facts.tools.nsenter === null) return facts
  // Modules that nothing else would load; a kernel that has them built in, or lacks them, says so below.
  for (const argv of [
    ['-a', 'br_netfilter', 'nf_conntrack', 'tun', 'vxlan', '8021q'],
    ['ifb', 'numifbs=0'],
  ]) {
    await run(['modprobe', ...argv], { codes: [0, 1, 255] }).catch((error: RunError) =>
      config.log?.debug({ err: error }, 'no modprobe'),
    )
  }
  const netns = `${config.prefix ?? ''}nubo-probe-${process.pid}`
  try {
    await netnsEnsure({}, netns)
    for (const [name, argv] of Object.entries(TRIALS)) {
      facts.features[name] = await run(argv, { netns }).then(
        () => true,
        () => false,
      )
      if (!facts.features[name] && NEEDED[name]) facts.problems.push(`the kernel lacks ${NEEDED[name]}`)
    }
  } catch (error) {
    facts.problems.push(`no network namespaces: ${(error as Error).message}`)
  } finally {
    await netnsDelete(netns)
  }
  return facts
}

async function versionOf(argv: string[]): Promise<string | null> {
  try {
    const { stdout, stderr } = await run(argv, { codes: [0, 1, 2, 64, 255] })
    return `${stdout}\n${stderr}`.trim().split('\n')[0]?.trim() ?? ''
  } catch (error) {
    if ((error as RunError).reason === 'missing') return null
    throw error
  }
}

/** Other firewalls see bridged packets too: one that drops what it does not know (Docker's does) cuts guests off, whatever our filters allow. */
async function droppingForward(config: NetConfig): Promise<string[]> {
  const { stdout } = await run(['nft', '-j', 'list', 'chains'], { ...config.place, codes: [0, 1] })
  const rows = stdout === '' ? [] : (JSON.parse(stdout) as { nftables: { chain?: Record<string, string> }[] }).nftables
  return rows.flatMap(({ chain }) =>
    chain?.hook === 'forward' && chain.policy === 'drop' && chain.table !== TABLE
      ? [
          `the host's own firewall drops forwarded packets (table ${chain.family} ${chain.table}, chain ${chain.name}) and so those between guests: ` +
            'accept there what is bridged, with Docker by `iptables -I DOCKER-USER -m physdev --physdev-is-bridged -j ACCEPT`, and what comes from and goes to br-ex',
        ]
      : [],
  )
}
