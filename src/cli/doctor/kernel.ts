/**
 * What the kernel can do for networks and disks. Each feature is tried in a network namespace of its own that ends with the command, so
 * nothing of the host changes; a list of loaded modules would say less (drivers load on use, or are built in, or are refused).
 */
import { access, constants, readFile } from 'node:fs/promises'
import { programPath } from '#host/programs.ts'
import { RunError, run } from '#host/run.ts'
import { type Finding, findings } from './finding.ts'

const { ok, limited, missing } = findings('Kernel')

interface Trial {
  name: string
  /** Tool and its standard input, run in a fresh namespace. */
  argv: string[]
  input: string
  /** The kernel option to build or the module to load. */
  module: string
  /** Without it: real servers are impossible, or something is missing. */
  needed: boolean
  consequence: string
}

const ip = (...lines: string[]) => ({ argv: ['ip', '-batch', '-'], input: `${lines.join('\n')}\n` })
const nft = (...lines: string[]) => ({ argv: ['nft', '-f', '-'], input: `${lines.join('\n')}\n` })

const TRIALS: Trial[] = [
  { name: 'bridge', ...ip('link add t0 type bridge'), module: 'bridge', needed: true, consequence: 'no networks' },
  {
    name: 'veth',
    ...ip('link add t0 type veth peer name t1'),
    module: 'veth',
    needed: true,
    consequence: 'no routers and no DHCP',
  },
  {
    name: 'tap',
    ...ip('tuntap add dev t0 mode tap'),
    module: 'tun',
    needed: true,
    consequence: 'servers have no network interfaces',
  },
  {
    ...{ name: 'vxlan', module: 'vxlan', needed: false, consequence: 'private networks only within this host' },
    ...ip('link add t0 type vxlan id 7 dstport 4789 local 127.0.0.1'),
  },
  {
    ...{ name: 'VLANs', module: '8021q', needed: false, consequence: 'no provider networks of type vlan and no trunk ports' },
    ...ip('link add t0 type veth peer name t1', 'link add link t0 name t0.5 type vlan id 5'),
  },
  {
    ...{ name: 'connection tracking', module: 'nf_conntrack nft_ct', needed: true, consequence: 'no security groups' },
    ...nft(
      'add table inet t',
      'add chain inet t c { type filter hook forward priority 0; }',
      'add rule inet t c ct state established,related accept',
    ),
  },
  {
    ...{
      name: 'address translation',
      module: 'nft_nat',
      needed: true,
      consequence: 'no routers to outside and no floating addresses',
    },
    ...nft('add table ip t', 'add chain ip t c { type nat hook postrouting priority 100; }', 'add rule ip t c masquerade'),
  },
  {
    ...{
      name: 'bridge filter',
      module: 'nf_tables_bridge',
      needed: true,
      consequence: 'servers could use the addresses of others',
    },
    ...nft(
      'add table bridge t',
      'add chain bridge t c { type filter hook forward priority 0; }',
      'add rule bridge t c ether saddr 02:00:00:00:00:01 drop',
    ),
  },
  {
    ...{ name: 'port limits (ingress)', module: 'ifb', needed: false, consequence: 'no bandwidth limits towards servers' },
    ...ip('link add t0 type ifb'),
  },
  {
    ...{ name: 'port limits (egress)', module: 'sch_htb', needed: false, consequence: 'no bandwidth limits from servers' },
    ...{ argv: ['tc', '-batch', '-'], input: 'qdisc add dev lo root handle 1: htb default 10\n' },
  },
]

/** Namespaces without root need a user namespace as well. */
const apart = process.getuid?.() === 0 ? ['unshare', '--net', '--'] : ['unshare', '--user', '--map-root-user', '--net', '--']

async function tried({ name, argv, input, module, needed, consequence }: Trial): Promise<Finding> {
  if (programPath(argv[0]!) === undefined) return limited(name, `not tried, for ${argv[0]} is missing`, consequence)
  try {
    await run([...apart, ...argv], { input, timeoutMs: 10_000 })
    return ok(name, 'tried: works')
  } catch (error) {
    if (!(error instanceof RunError)) throw error
    const seen = (error.stderr.trim() || error.message).split('\n').slice(0, 1).join('')
    return (needed ? missing : limited)(name, seen, consequence, `sudo modprobe -a ${module} (or a kernel that has it)`)
  }
}

/** Security groups are stateful on bridges by way of br_netfilter, which is switched on for each namespace. */
async function bridgeNetfilter(): Promise<Finding> {
  const name = 'br_netfilter'
  try {
    await run([...apart, 'cat', '/proc/sys/net/bridge/bridge-nf-call-iptables'])
    return ok(name, 'tried: works')
  } catch (error) {
    if (!(error instanceof RunError)) throw error
    // A module that `up` loads by itself.
    const loadable = await run(['modprobe', '-n', name]).then(
      () => true,
      () => false,
    )
    if (loadable) return ok(name, 'a module, loaded on use')
    return missing(name, 'neither in the kernel nor a module', 'no security groups', 'sudo modprobe br_netfilter')
  }
}

/** Things that are there as a file or a line of /proc; all of them optional. */
async function devices(): Promise<Finding[]> {
  const misc = await readFile('/proc/misc', 'utf8').catch(() => '')
  const major = await readFile('/proc/devices', 'utf8').catch(() => '')
  const there = (path: string) =>
    access(path, constants.R_OK | constants.W_OK).then(
      () => true,
      () => false,
    )
  const row = (name: string, found: boolean, consequence: string, module: string) =>
    found ? ok(name, 'there') : limited(name, 'not there', consequence, `sudo modprobe ${module}`)
  return [
    row(
      'vhost-net',
      await there('/dev/vhost-net'),
      "servers' network traffic goes through qemu itself, which is slower",
      'vhost_net',
    ),
    row(
      'device mapper',
      /device-mapper/.test(misc),
      'no LVM volumes and no encrypted ones on the host (volumes in files are not affected)',
      'dm_mod',
    ),
    row('nbd', /\bnbd\b/.test(major), 'volumes cannot be attached to the host itself (servers are not affected)', 'nbd'),
    row(
      'loop devices',
      await there('/dev/loop-control'),
      'no file systems in files on the host (servers are not affected)',
      'loop',
    ),
  ]
}

export async function kernelFindings(): Promise<Finding[]> {
  const can = await run([...apart, 'true']).then(
    () => undefined,
    (error: Error) => error.message,
  )
  if (can !== undefined) {
    const mend = process.getuid?.() === 0 ? 'a container needs CAP_SYS_ADMIN for that' : 'ask again as root'
    return [
      missing('network namespaces', can.split('\n')[0]!, 'no networks; nothing else of the kernel could be tried', mend),
      ...(await devices()),
    ]
  }
  const trials: Finding[] = []
  for (const trial of TRIALS) trials.push(await tried(trial))
  return [ok('network namespaces', 'tried: works'), ...trials, await bridgeNetfilter(), ...(await devices())]
}
