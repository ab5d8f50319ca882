/**
 * The guest's file tree and its initial file system, put together from unpacked Debian packages and the files of guest/root and
 * guest/initrd. Only what is named here, and the libraries that it needs, goes in.
 */
import { existsSync, globSync } from 'node:fs'
import { chmod, copyFile, cp, lstat, mkdir, readdir, readFile, readlink, symlink } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { run } from '#host/run.ts'
import { type CpioEntry, cpio } from './cpio.ts'
import { elfNeeded } from './elf.ts'

const SKELETON = fileURLToPath(new URL('./root', import.meta.url))
const INIT = fileURLToPath(new URL('./initrd/init', import.meta.url))
const LIBRARIES = 'usr/lib/x86_64-linux-gnu'

/** Packages whose files are used; those that they depend on come along for their libraries. */
export const GUEST_PACKAGES = [
  'linux-image-cloud-amd64',
  'busybox-static',
  'dropbear-bin',
  'openssh-sftp-server',
  'fdisk',
  'e2fsprogs',
  'util-linux',
  'qemu-guest-agent',
  'sudo',
  'libpam-modules',
  'jq',
]

/** Programs (where the package has them, with or without a leading usr/) and modules that programs load by themselves. */
const PROGRAMS = [
  'bin/busybox',
  'sbin/dropbear',
  'bin/dropbearkey',
  'bin/dbclient',
  'sbin/sfdisk',
  'sbin/resize2fs',
  'sbin/mke2fs',
  'sbin/blkid',
  'bin/lsblk',
  'bin/partx',
  'bin/findmnt',
  'bin/mountpoint',
  'sbin/qemu-ga',
  'bin/sudo',
  'bin/jq',
]
const LOADED = ['usr/lib/openssh/sftp-server', 'usr/libexec/sudo/sudoers.so', `${LIBRARIES}/security/pam_permit.so`]

/** Drivers (with what they depend on): the paravirtual devices, disks, file systems of configuration drives and shares, VLANs, power button. */
const MODULES = [
  ...[
    'virtio_pci',
    'virtio_blk',
    'virtio_scsi',
    'virtio_net',
    'virtio_console',
    'virtio-rng',
    'virtio_balloon',
    'virtio_mem',
    'virtio_input',
  ],
  ...['sd_mod', 'sr_mod', 'isofs', 'vfat', 'nls_cp437', 'nls_ascii', 'nls_iso8859-1', 'nls_utf8', 'virtiofs', 'loop', 'overlay'],
  ...['8021q', 'vmw_vsock_virtio_transport', 'button', 'evdev', 'i6300esb'],
]
/** What the initial file system needs to reach the root: the disk's driver. */
const BOOT_MODULES = ['virtio_pci', 'virtio_blk', 'virtio_scsi', 'sd_mod']

/** busybox applets that a guest has no use for, or that would stand for the real program. */
const LEFT_OUT = new Set(['busybox', 'dpkg', 'dpkg-deb', 'rpm', 'rpm2cpio', 'linuxrc'])

/** Finds a file of the unpacked packages, which may or may not have moved to usr/. */
function unpacked(from: string, path: string): string | undefined {
  return [path, path.startsWith('usr/') ? path.slice(4) : `usr/${path}`].map(tail => join(from, tail)).find(existsSync)
}

function mustHave(from: string, path: string): string {
  const found = unpacked(from, path)
  if (found === undefined) throw new Error(`the Debian packages of the guest have no ${path}`)
  return found
}

/** The file behind a symbolic link of the tree, which may be absolute in the guest's own terms. */
async function behind(from: string, path: string): Promise<string> {
  const info = await lstat(path)
  if (!info.isSymbolicLink()) return path
  const target = await readlink(path)
  return behind(from, target.startsWith('/') ? mustHave(from, target.slice(1)) : join(dirname(path), target))
}

async function place(from: string, source: string, to: string, mode = 0o755): Promise<void> {
  await mkdir(dirname(to), { recursive: true })
  await copyFile(await behind(from, source), to)
  await chmod(to, mode)
}

/** Copies the libraries that `programs` need, and those that these need. */
async function placeLibraries(from: string, root: string, programs: readonly string[]): Promise<void> {
  const done = new Set<string>()
  const queue = [...programs]
  for (let path = queue.pop(); path !== undefined; path = queue.pop()) {
    for (const name of await elfNeeded(path)) {
      if (done.has(name)) continue
      done.add(name)
      const source = unpacked(from, `${LIBRARIES}/${name}`) ?? unpacked(from, `usr/libexec/sudo/${name}`)
      if (source === undefined) throw new Error(`${basename(path)} of the guest needs ${name}, which is in none of its packages`)
      const target = join(root, LIBRARIES, name)
      await place(from, source, target)
      queue.push(target)
    }
  }
}

/** The version of the unpacked kernel. */
export async function kernelVersion(from: string): Promise<string> {
  const [version] = await readdir(mustHave(from, 'lib/modules'))
  if (version === undefined) throw new Error('the Debian packages of the guest have no kernel')
  return version
}

/** A module's name as the kernel counts it, from a file or module name. */
const moduleName = (file: string) =>
  basename(file)
    .replace(/[.]ko([.]xz)?$/, '')
    .replaceAll('-', '_')

/** Copies the modules and what they depend on, and writes the indexes that modprobe reads. */
async function placeModules(from: string, root: string, version: string): Promise<void> {
  const modules = mustHave(from, `lib/modules/${version}`)
  const files = globSync('kernel/**/*.ko{,.xz}', { cwd: modules })
  const byName = new Map(files.map(file => [moduleName(file), file]))
  const busybox = join(root, 'usr/bin/busybox')
  const wanted = new Set<string>()
  const queue = MODULES.map(moduleName)
  for (let name = queue.pop(); name !== undefined; name = queue.pop()) {
    const file = byName.get(name)
    // Built into this kernel, or not a part of it at all: nothing to bring.
    if (file === undefined || wanted.has(name)) continue
    wanted.add(name)
    const target = join(root, 'usr/lib/modules', version, file)
    await place(from, join(modules, file), target, 0o644)
    if (target.endsWith('.xz')) await run([busybox, 'unxz', target])
    queue.push(...(await moduleDepends(target.replace(/[.]xz$/, ''))))
  }
  for (const list of ['modules.builtin', 'modules.order'])
    await copyFile(join(modules, list), join(root, 'usr/lib/modules', version, list))
  await run([busybox, 'depmod', '-b', root, version])
}

/** The modules that a module names in its `depends=` line. */
async function moduleDepends(file: string): Promise<string[]> {
  const text = (await readFile(file)).toString('latin1')
  const found = /\0depends=([^\0]*)\0/.exec(text)
  return found?.[1] ? found[1].split(',').map(moduleName) : []
}

/** Symbolic links for all applets of busybox whose name is not taken by a real program. */
async function placeApplets(root: string): Promise<void> {
  const { stdout } = await run([join(root, 'usr/bin/busybox'), '--list'])
  for (const applet of stdout.split('\n').filter(name => name !== '' && !LEFT_OUT.has(name))) {
    if (existsSync(join(root, 'usr/sbin', applet)) || existsSync(join(root, 'usr/bin', applet))) continue
    await symlink('busybox', join(root, 'usr/bin', applet))
  }
  // Where other programs expect them.
  for (const name of ['init', 'getty', 'modprobe', 'reboot', 'poweroff', 'halt'])
    await symlink('../bin/busybox', join(root, 'usr/sbin', name))
  await symlink('dbclient', join(root, 'usr/bin/ssh'))
  await symlink('mke2fs', join(root, 'usr/sbin/mkfs.ext4'))
}

/** Builds the guest's root file tree in the folder `root` from the packages unpacked in `from`. */
export async function treeBuild(from: string, root: string): Promise<void> {
  for (const folder of [
    'usr/bin',
    'usr/sbin',
    LIBRARIES,
    'usr/lib64',
    'dev',
    'proc',
    'sys',
    'run',
    'tmp',
    'mnt',
    'root',
    'home/guest',
  ]) {
    await mkdir(join(root, folder), { recursive: true })
  }
  for (const folder of ['etc/dropbear', 'var/lib/guest', 'var/log', 'var/tmp', 'var/empty'])
    await mkdir(join(root, folder), { recursive: true })
  for (const folder of ['bin', 'sbin', 'lib', 'lib64']) await symlink(`usr/${folder}`, join(root, folder))
  await symlink('/run', join(root, 'var/run'))
  await cp(SKELETON, root, { recursive: true })
  await symlink('/run/resolv.conf', join(root, 'etc/resolv.conf'))
  await symlink('/proc/mounts', join(root, 'etc/mtab'))

  const placed: string[] = []
  for (const program of [...PROGRAMS.map(path => `usr/${path}`), ...LOADED]) {
    const target = join(root, program)
    const source =
      unpacked(from, program) ??
      unpacked(from, program.replace('/sbin/', '/bin/')) ??
      mustHave(from, program.replace('/bin/', '/sbin/'))
    await place(from, source, target)
    placed.push(target)
  }
  await placeLibraries(from, root, placed)
  await place(from, mustHave(from, `${LIBRARIES}/ld-linux-x86-64.so.2`), join(root, 'usr/lib64/ld-linux-x86-64.so.2'))
  await chmod(join(root, 'usr/bin/sudo'), 0o4755)
  await placeModules(from, root, await kernelVersion(from))
  await placeApplets(root)

  for (const [path, mode] of [
    ['etc/shadow', 0o600],
    ['etc/sudoers', 0o440],
    ['root', 0o700],
    ['tmp', 0o1777],
    ['var/tmp', 0o1777],
  ] as const) {
    await chmod(join(root, path), mode)
  }
}

/** The initial file system: busybox, the drivers of the disk in the order in which they load, and guest/initrd/init. */
export async function initrdBuild(root: string, version: string): Promise<Buffer> {
  const modules = join(root, 'usr/lib/modules', version)
  const files = new Map(globSync('kernel/**/*.ko', { cwd: modules }).map(file => [moduleName(file), join(modules, file)]))
  const order: string[] = []
  const add = async (name: string): Promise<void> => {
    const file = files.get(name)
    if (file === undefined || order.includes(name)) return
    for (const other of await moduleDepends(file)) await add(other)
    order.push(name)
  }
  for (const name of BOOT_MODULES) await add(moduleName(name))

  const folder = (path: string): CpioEntry => ({ path, mode: 0o40755 })
  const file = async (path: string, source: string): Promise<CpioEntry> => ({
    path,
    mode: 0o100755,
    data: await readFile(source),
  })
  return cpio([
    ...['bin', 'lib', 'dev', 'proc', 'sys', 'run', 'new', 'usr', 'usr/bin'].map(folder),
    // The first output of init goes here, before it has mounted /dev.
    { path: 'dev/console', mode: 0o20600, device: [5, 1] },
    await file('init', INIT),
    await file('bin/busybox', join(root, 'usr/bin/busybox')),
    { path: 'bin/sh', mode: 0o120777, data: Buffer.from('busybox') },
    { path: 'modules', mode: 0o100644, data: Buffer.from(order.join('\n')) },
    ...(await Promise.all(order.map(name => file(`lib/${name}.ko`, files.get(name)!)))),
  ])
}

/** Every path below `root` with what the file system inside the guest must say of its owner: all root's, but the home of the user. */
export async function owners(root: string, below = ''): Promise<{ path: string; owner: number }[]> {
  const entries = await readdir(join(root, below), { withFileTypes: true })
  const lists = entries.map(async entry => {
    const path = `${below}/${entry.name}`
    const own = { path, owner: path.startsWith('/home/guest') ? 1000 : 0 }
    return entry.isDirectory() ? [own, ...(await owners(root, path))] : [own]
  })
  return (await Promise.all(lists)).flat()
}
