/**
 * The programs of the host that Nubo uses, the Debian package each comes in, and their installation. Everything that is not in npm is
 * in this one table: `up` and `test` install what is missing, `doctor` shows it.
 */
import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'
import { run } from '#host/run.ts'

/** For what a program is needed: to boot servers on this host, to build the guest image, only by the tests. */
export type Purpose = 'host' | 'image' | 'test'

export interface HostProgram {
  /** Name in PATH, or the absolute path of a file that is not a program. */
  program: string
  package: string
  purpose: Purpose
  /** What does not work without it, as the end of a sentence: "without it there is no ...". */
  use: string
  /** Arguments that make it print its version; none when it has no such option. */
  version?: string[]
}

/* biome-ignore format: a table */
export const HOST_PROGRAMS: readonly HostProgram[] = [
  { program: 'qemu-system-x86_64', package: 'qemu-system-x86',    purpose: 'host',  use: 'running servers', version: ['--version'] },
  { program: 'qemu-img',           package: 'qemu-utils',         purpose: 'host',  use: 'images and disks', version: ['--version'] },
  { program: 'qemu-nbd',           package: 'qemu-utils',         purpose: 'host',  use: 'looking into disks', version: ['--version'] },
  { program: 'qemu-storage-daemon', package: 'qemu-system-common', purpose: 'host', use: 'volumes', version: ['--version'] },
  { program: '/usr/share/OVMF/OVMF_CODE_4M.fd', package: 'ovmf',  purpose: 'host',  use: 'servers with UEFI firmware' },
  { program: 'ip',                 package: 'iproute2',           purpose: 'host',  use: 'networks', version: ['-V'] },
  { program: 'tc',                 package: 'iproute2',           purpose: 'host',  use: 'bandwidth limits', version: ['-V'] },
  { program: 'nft',                package: 'nftables',           purpose: 'host',  use: 'security groups and routers', version: ['--version'] },
  { program: 'dnsmasq',            package: 'dnsmasq-base',       purpose: 'host',  use: 'DHCP and DNS', version: ['--version'] },
  { program: 'conntrack',          package: 'conntrack',          purpose: 'host',  use: 'ending connections that a changed rule forbids', version: ['--version'] },
  { program: 'arping',             package: 'iputils-arping',     purpose: 'host',  use: 'announcing moved addresses', version: ['-V'] },
  { program: 'radvd',              package: 'radvd',              purpose: 'host',  use: 'IPv6 router advertisements', version: ['--version'] },
  { program: 'sysctl',             package: 'procps',             purpose: 'host',  use: 'forwarding settings', version: ['--version'] },
  { program: 'nsenter',            package: 'util-linux',         purpose: 'host',  use: 'commands in network namespaces', version: ['--version'] },
  { program: 'setpriv',            package: 'util-linux',         purpose: 'host',  use: 'running guests and databases without privileges', version: ['--version'] },
  { program: 'genisoimage',        package: 'genisoimage',        purpose: 'host',  use: 'config drives', version: ['--version'] },
  { program: 'mkfs.vfat',          package: 'dosfstools',         purpose: 'host',  use: 'config drives and ephemeral disks as vfat' },
  { program: 'mcopy',              package: 'mtools',             purpose: 'host',  use: 'config drives as vfat', version: ['--version'] },
  { program: 'mke2fs',             package: 'e2fsprogs',          purpose: 'host',  use: 'ephemeral disks', version: ['-V'] },
  { program: 'apt-get',            package: 'apt',                purpose: 'image', use: 'the guest image', version: ['--version'] },
  { program: 'qemu-img',           package: 'qemu-utils',         purpose: 'image', use: 'the guest image', version: ['--version'] },
  { program: 'dpkg-deb',           package: 'dpkg',               purpose: 'image', use: 'the guest image', version: ['--version'] },
  { program: 'debugfs',            package: 'e2fsprogs',          purpose: 'image', use: 'the guest image', version: ['-V'] },
  { program: 'ssh',                package: 'openssh-client',     purpose: 'test',  use: 'logging in to guests from tests', version: ['-V'] },
  { program: 'sfdisk',             package: 'fdisk',              purpose: 'test',  use: 'tests of partition tables', version: ['--version'] },
  { program: 'cpio',               package: 'cpio',               purpose: 'test',  use: 'tests of archives', version: ['--version'] },
  { program: 'git',                package: 'git',                purpose: 'test',  use: 'tests from a fresh clone', version: ['--version'] },
]

const PATH = [...(process.env.PATH ?? '').split(delimiter), '/usr/local/sbin', '/usr/sbin', '/sbin', '/usr/bin', '/bin']

/** Where a program (searched in PATH and the system's folders) or a file is on this host; undefined when it is not there. */
export function programPath(name: string): string | undefined {
  const isFile = name.startsWith('/')
  return (isFile ? [name] : PATH.map(folder => join(folder, name))).find(path => {
    try {
      accessSync(path, isFile ? constants.R_OK : constants.X_OK)
      return true
    } catch {
      return false
    }
  })
}

/** The rows of the table that are not on this host. */
export function missingPrograms(purposes: readonly Purpose[]): HostProgram[] {
  return HOST_PROGRAMS.filter(row => purposes.includes(row.purpose) && programPath(row.program) === undefined)
}

/** The command that a person would type to install packages. */
export function installCommand(packages: readonly string[]): string {
  return `sudo apt-get install --no-install-recommends ${packages.join(' ')}`
}

/**
 * Installs the packages of all missing programs by apt. Waits for another dpkg that is running; reads the package lists anew only when
 * the first try fails (a fresh machine has none, an old one has stale ones).
 * @param say prints one line of progress
 * @throws Error with the command to type, when we are not root or there is no apt; RunError with apt's words, when apt fails.
 */
export async function installPrograms(purposes: readonly Purpose[], say: (line: string) => void): Promise<void> {
  const missing = missingPrograms(purposes)
  if (missing.length === 0) return
  const packages = [...new Set(missing.map(row => row.package))].sort()
  const uses = [...new Set(missing.map(row => row.use))].join('; ')
  if (programPath('apt-get') === undefined || process.getuid?.() !== 0) {
    throw new Error(
      `this host lacks ${missing.map(row => row.program).join(', ')} (for ${uses}). Install them: ${installCommand(packages)}`,
    )
  }
  say(`installing ${packages.join(', ')} (for ${uses})`)
  try {
    await apt(['install', '--no-install-recommends', ...packages])
  } catch {
    // Why it failed does not matter yet: with fresh lists it works, or fails again with words that are then shown.
    say('reading the package lists')
    await apt(['update'])
    await apt(['install', '--no-install-recommends', ...packages])
  }
  const left = missingPrograms(purposes)
  if (left.length > 0)
    throw new Error(`apt-get installed ${packages.join(', ')}, but still not here: ${left.map(row => row.program).join(', ')}`)
}

/** Services that packages bring (a system-wide dnsmasq, radvd) are not started by the installation: Nubo starts its own. */
async function apt(args: string[]): Promise<void> {
  await run(['apt-get', '-q', '-y', '-o', 'DPkg::Lock::Timeout=600', '-o', 'Dpkg::Use-Pty=0', ...args], {
    timeoutMs: 20 * 60_000,
    env: { DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1' },
  })
}
