/**
 * The programs of the host that Nubo uses and the Debian package that each comes in. Everything that is not in npm is in this one table:
 * `up` and `test` install what is missing, `doctor` shows it, errors name the package.
 */
import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'

/**
 * For what a program is needed: to be a host of servers and networks, to build the guest image, only by the tests; `option` is for what
 * few clouds use: it is not installed unasked.
 */
export type Purpose = 'host' | 'image' | 'test' | 'option'

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
  { program: 'dhcp_release',       package: 'dnsmasq-utils',      purpose: 'host',  use: 'giving addresses of removed ports to new ones' },
  { program: 'conntrack',          package: 'conntrack',          purpose: 'host',  use: 'ending connections that a changed rule forbids', version: ['--version'] },
  { program: 'arping',             package: 'iputils-arping',     purpose: 'host',  use: 'announcing moved addresses', version: ['-V'] },
  { program: 'radvd',              package: 'radvd',              purpose: 'host',  use: 'IPv6 router advertisements', version: ['--version'] },
  { program: 'sysctl',             package: 'procps',             purpose: 'host',  use: 'forwarding settings', version: ['--version'] },
  { program: 'nsenter',            package: 'util-linux',         purpose: 'host',  use: 'commands in network namespaces', version: ['--version'] },
  { program: 'setpriv',            package: 'util-linux',         purpose: 'host',  use: 'running guests and databases without privileges', version: ['--version'] },
  { program: 'prlimit',            package: 'util-linux',         purpose: 'host',  use: 'limits on programs that read foreign images', version: ['--version'] },
  { program: 'flock',              package: 'util-linux',         purpose: 'host',  use: 'locks on disks', version: ['--version'] },
  { program: 'mkswap',             package: 'util-linux',         purpose: 'host',  use: 'swap disks', version: ['--version'] },
  { program: 'bridge',             package: 'iproute2',           purpose: 'host',  use: 'networks', version: ['-V'] },
  { program: 'genisoimage',        package: 'genisoimage',        purpose: 'host',  use: 'config drives', version: ['--version'] },
  { program: 'mkfs.vfat',          package: 'dosfstools',         purpose: 'host',  use: 'config drives and ephemeral disks as vfat' },
  { program: 'mcopy',              package: 'mtools',             purpose: 'host',  use: 'config drives as vfat', version: ['--version'] },
  { program: 'mke2fs',             package: 'e2fsprogs',          purpose: 'image', use: 'building the guest image', version: ['-V'] },
  { program: 'mkfs.ext4',          package: 'e2fsprogs',          purpose: 'host',  use: 'ephemeral disks as ext4', version: ['-V'] },
  { program: 'mkfs.ext3',          package: 'e2fsprogs',          purpose: 'host',  use: 'ephemeral disks as ext3', version: ['-V'] },
  { program: 'mkfs.xfs',           package: 'xfsprogs',           purpose: 'option', use: 'ephemeral disks as xfs', version: ['-V'] },
  { program: 'mkfs.ntfs',          package: 'ntfs-3g',            purpose: 'option', use: 'ephemeral disks as ntfs' },
  { program: 'apt-get',            package: 'apt',                purpose: 'image', use: 'building the guest image', version: ['--version'] },
  { program: 'qemu-img',           package: 'qemu-utils',         purpose: 'image', use: 'building the guest image', version: ['--version'] },
  { program: 'dpkg-deb',           package: 'dpkg',               purpose: 'image', use: 'building the guest image', version: ['--version'] },
  { program: 'debugfs',            package: 'e2fsprogs',          purpose: 'image', use: 'building the guest image', version: ['-V'] },
  { program: 'ssh',                package: 'openssh-client',     purpose: 'test',  use: 'logging in to guests from tests', version: ['-V'] },
  { program: 'udhcpc',             package: 'udhcpc',             purpose: 'test',  use: 'tests of DHCP servers' },
  { program: 'dhclient',           package: 'isc-dhcp-client',    purpose: 'test',  use: 'tests of DHCPv6 servers' },
  { program: 'busybox',            package: 'busybox',            purpose: 'test',  use: 'tests of names' },
  { program: 'ping',               package: 'iputils-ping',       purpose: 'test',  use: 'tests of networks' },
  { program: 'curl',               package: 'curl',               purpose: 'test',  use: 'tests of metadata' },
  { program: 'sfdisk',             package: 'fdisk',              purpose: 'test',  use: 'tests of partition tables', version: ['--version'] },
  { program: 'cpio',               package: 'cpio',               purpose: 'test',  use: 'tests of archives', version: ['--version'] },
  { program: 'slapd',              package: 'slapd',              purpose: 'test',  use: 'tests of users in LDAP' },
  { program: '/usr/lib/python3/dist-packages/keystone/version.py', package: 'python3-keystone', purpose: 'test', use: "tests of identity beside Keystone's own code" },
  { program: 'xmlsec1',            package: 'xmlsec1',            purpose: 'test',  use: 'tests of SAML', version: ['--version'] },
  { program: 'openstack',          package: 'python3-openstackclient', purpose: 'test', use: 'the main job by the stock client', version: ['--version'] },
  { program: 'ssh-keygen',         package: 'openssh-client',     purpose: 'test',  use: 'logging in to guests from tests' },
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

/** The Debian package that brings a program, if it is one of ours. */
export function packageOf(program: string): string | undefined {
  return HOST_PROGRAMS.find(row => row.program === program)?.package
}

/** The command that a person would type to install packages. */
export function installCommand(packages: readonly string[]): string {
  return `sudo apt-get install --no-install-recommends ${packages.join(' ')}`
}
