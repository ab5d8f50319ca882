/** The machine itself: processor, KVM, memory, disk, and the rights of whoever asks. */
import { readFile, stat, statfs } from 'node:fs/promises'
import { arch, availableParallelism, cpus, freemem, release, totalmem } from 'node:os'
import { dirname } from 'node:path'
import { cgroupsFind } from '#host/cgroup/index.ts'
import { programPath } from '#host/programs.ts'
import { accelTry } from '#host/qemu/probe.ts'
import { type Finding, findings } from './finding.ts'

const { ok, limited, missing } = findings('Machine')
const GIB = 1 << 30
const gib = (bytes: number) => `${(bytes / GIB).toFixed(1)} GiB`
const MEMORY_ENOUGH = 2 * GIB
const DISK_ENOUGH = 10 * GIB
const QEMU = 'qemu-system-x86_64'

async function system(): Promise<Finding> {
  const text = await readFile('/etc/os-release', 'utf8').catch(() => '')
  const name = /^PRETTY_NAME="?([^"\n]*)/m.exec(text)?.[1] ?? 'an unknown system'
  const seen = `${name}, Linux ${release()} on ${arch()}`
  if (arch() !== 'x64') return limited('system', seen, 'servers for x86-64 run emulated, and the guest image is for x86-64 only')
  if (!/^ID(_LIKE)?=.*debian/m.test(text)) return limited('system', seen, 'packages are installed by hand: Nubo knows only apt')
  return ok('system', seen)
}

/** Starts a real, tiny guest: /dev/kvm may exist and yet not work in a nested machine. */
async function kvm(): Promise<Finding> {
  const slow = 'servers run emulated (TCG), 5 to 20 times slower'
  const binary = programPath(QEMU)
  if (binary === undefined) return limited('KVM', `not tried, for ${QEMU} is missing`, slow)
  if (!(await stat('/dev/kvm').catch(() => undefined))) {
    const virtual = /\bhypervisor\b/.test(await readFile('/proc/cpuinfo', 'utf8'))
    const mend = virtual
      ? 'turn on nested virtualisation for this machine in its hypervisor'
      : 'sudo modprobe kvm_intel || sudo modprobe kvm_amd (and turn on VT-x or AMD-V in the firmware)'
    return limited('KVM', 'there is no /dev/kvm', slow, mend)
  }
  const why = await accelTry('kvm', { binary })
  if (why === undefined) return ok('KVM', 'a test guest ran')
  return limited('KVM', why.split('\n')[0]!, slow, /denied/i.test(why) ? 'sudo usermod -aG kvm $USER' : undefined)
}

async function emulation(): Promise<Finding | undefined> {
  const binary = programPath(QEMU)
  if (binary === undefined) return undefined
  const why = await accelTry('tcg', { binary, timeoutMs: 20_000 })
  if (why === undefined) return ok('emulation', 'a test guest ran under TCG')
  return missing('emulation', why.split('\n')[0]!, 'no server can run', 'sudo apt-get install --reinstall qemu-system-x86')
}

function processor(): Finding {
  const count = availableParallelism()
  const seen = `${count} × ${cpus()[0]?.model.trim() ?? 'unknown'}`
  return count >= 2
    ? ok('processors', seen)
    : limited('processors', seen, 'Nubo itself takes most of the only core while it works')
}

async function memory(): Promise<Finding> {
  const text = await readFile('/proc/meminfo', 'utf8').catch(() => '')
  const available = Number(/^MemAvailable:\s+(\d+) kB/m.exec(text)?.[1] ?? freemem() / 1024) * 1024
  const seen = `${gib(available)} free of ${gib(totalmem())}`
  return available >= MEMORY_ENOUGH
    ? ok('memory', seen)
    : limited('memory', seen, 'only a few small servers fit', 'end other programs, or add memory')
}

async function disk(data: string): Promise<Finding> {
  let folder = data
  while (folder !== '/' && !(await stat(folder).catch(() => undefined))) folder = dirname(folder)
  const { bavail, bsize } = await statfs(folder)
  const seen = `${gib(bavail * bsize)} free at ${data}`
  return bavail * bsize >= DISK_ENOUGH
    ? ok('disk', seen)
    : limited('disk', seen, 'images and servers soon find no space', 'free some, or choose another folder: nubo up --data DIR')
}

/** Capabilities by number, with what does not work without them (linux/capability.h). */
const CAPABILITIES: Record<number, [name: string, consequence: string, needed: boolean]> = {
  0: ['CAP_CHOWN', 'files cannot be given to the users that guests run as', true],
  5: ['CAP_KILL', 'guests, which run as other users, cannot be ended', true],
  6: ['CAP_SETGID', 'guests cannot be given users of their own', true],
  7: ['CAP_SETUID', 'guests cannot be given users of their own', true],
  12: ['CAP_NET_ADMIN', 'no networks', true],
  13: ['CAP_NET_RAW', 'no DHCP', true],
  16: ['CAP_SYS_MODULE', 'drivers that the kernel has not loaded yet stay missing', false],
  21: ['CAP_SYS_ADMIN', 'no network namespaces', true],
  24: [
    'CAP_SYS_RESOURCE',
    'limits (open files, locked memory) cannot be raised, and guests not be spared by the out-of-memory killer',
    false,
  ],
  27: ['CAP_MKNOD', 'no device files for guests', false],
}

async function rights(): Promise<Finding> {
  const uid = process.getuid?.()
  if (uid !== 0)
    return missing(
      'rights',
      `user ${uid}, not root`,
      'no real servers (but `nubo up --simulate` works)',
      'run it as root: sudo ./nubo up',
    )
  const text = await readFile('/proc/self/status', 'utf8')
  const held = BigInt(`0x${/^CapEff:\s+([0-9a-f]+)/m.exec(text)?.[1] ?? '0'}`)
  const lacking = Object.entries(CAPABILITIES).filter(([bit]) => (held & (1n << BigInt(bit))) === 0n)
  if (lacking.length === 0) return ok('rights', 'root with all capabilities')
  const seen = `root without ${lacking.map(([, [name]]) => name).join(', ')}`
  const consequence = [...new Set(lacking.map(([, [, words]]) => words))].join('; ')
  const mend = 'give this container those capabilities'
  return lacking.some(([, [, , needed]]) => needed)
    ? missing('rights', seen, consequence, mend)
    : limited('rights', seen, consequence, mend)
}

async function controlGroups(): Promise<Finding> {
  const { v1, v2 } = await cgroupsFind()
  const names = {
    ...Object.fromEntries(Object.keys(v1).map(name => [name, 'version 1'])),
    ...Object.fromEntries((v2?.controllers ?? []).map(name => [name, 'version 2'])),
  }
  const seen = Object.entries(names)
    .map(([name, version]) => `${name} (${version})`)
    .join(', ')
  const lacking = ['memory', 'cpu', 'pids'].filter(name => !(name in names))
  if (lacking.length === 0) return ok('control groups', seen)
  return limited(
    'control groups',
    seen || 'none',
    `servers are not limited in ${lacking.join(', ')}`,
    'mount cgroup2 at /sys/fs/cgroup',
  )
}

async function openFiles(): Promise<Finding> {
  const limits = await readFile('/proc/self/limits', 'utf8')
  const most = Number(/^Max open files\s+\d+\s+(\d+)/m.exec(limits)?.[1] ?? 0)
  if (most >= 65_536) return ok('open files', `at most ${most}`)
  return limited(
    'open files',
    `at most ${most}`,
    'a few hundred servers and connections at once, not more',
    'ulimit -Hn 1048576, or LimitNOFILE= of its unit',
  )
}

/** @param data the data folder that `up` would use */
export async function machineFindings(data: string): Promise<Finding[]> {
  const all = await Promise.all([system(), processor(), memory(), disk(data), rights(), controlGroups(), openFiles()])
  // One after the other: both measure time.
  const guests = [await kvm(), await emulation()]
  return [...all, ...guests.filter(found => found !== undefined)]
}
