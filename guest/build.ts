/**
 * Builds the guest image: a disk that boots by BIOS and by UEFI, and its kernel and initial file system alone for booting without a boot
 * loader. Needs no root, no loop device and no mount: file systems are written as files (mke2fs -d, mtools), owners are set by debugfs.
 *
 *   sector 0        boot code of syslinux, partition table (GPT)
 *   1 EFI system    FAT: kernel, initial file system; syslinux for BIOS, systemd-boot for UEFI, each with the same command line
 *   2 root          ext4 labelled guest-root, the last one, so that the guest can grow it to its disk
 *
 * What was built is kept under a hash of everything that this folder puts in, so that a second build only looks.
 */
import { createHash } from 'node:crypto'
import { createReadStream, createWriteStream, existsSync } from 'node:fs'
import { copyFile, mkdir, mkdtemp, open, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { fileURLToPath } from 'node:url'
import { run } from '#host/run.ts'
import { type Archive, archiveClosure, archiveOpen, archiveUnpack, type Deb, RELEASE } from './archive.ts'
import { EFI_SYSTEM, FIRST, gpt, LAST, LINUX_ROOT_X86_64, SECTOR } from './gpt.ts'
import { GUEST_PACKAGES, initrdBuild, kernelVersion, owners, treeBuild } from './tree.ts'

const HERE = fileURLToPath(new URL('.', import.meta.url))
const MIB = 1 << 20
const ESP_BYTES = 24 * MIB
const ROOT_BYTES = 64 * MIB
/** Fixed, so that every build makes the same disk; nothing refers to them. */
const UUIDS = {
  disk: '6e75626f-0000-4000-8000-000000000001',
  esp: '6e75626f-0000-4000-8000-000000000002',
  root: '6e75626f-0000-4000-8000-000000000003',
}
const COMMAND_LINE = 'root=LABEL=guest-root console=tty0 console=ttyS0,115200 quiet'

/** Boot loaders and the tools that write them, used while building only. */
const BUILD_PACKAGES = ['syslinux', 'syslinux-common', 'systemd-boot-efi', 'mtools']
/** Dependencies for maintainer scripts and other programs of the same packages: nothing in the guest uses them. */
const NOT_NEEDED =
  /perl|krb5|gssapi|k5crypto|keyutils|fido2|cbor|libssl|libdb5|gdbm|libedit|libbsd|libmd0|libkmod|semanage|sepol|ncurses|klibc|libbz2/

export interface Guest {
  /** Hash of what went in. */
  key: string
  /** The disk, qcow2. */
  image: string
  /** Kernel and initial file system for booting that disk without its boot loader. */
  kernel: string
  initrd: string
  /** Command line that goes with them. */
  commandLine: string
}

/** A hash of all that goes into the image from this source tree. Newer Debian packages alone do not make a new image. */
async function inputsHash(): Promise<string> {
  const hash = createHash('sha256')
  for (const path of (await readdir(HERE, { recursive: true })).sort()) {
    const full = join(HERE, path)
    const info = await stat(full)
    if (!info.isFile() || path.endsWith('.test.ts') || path.endsWith('.md')) continue
    hash.update(`${path}\0${info.mode & 0o111}\0`).update(await readFile(full))
  }
  return hash.digest('hex').slice(0, 16)
}

function guestIn(folder: string, key: string): Guest {
  const at = (name: string) => join(folder, key, name)
  return { key, image: at('guest.qcow2'), kernel: at('vmlinuz'), initrd: at('initrd.img'), commandLine: COMMAND_LINE }
}

/** The image, if one of these inputs was built in `folder` before. */
export async function guestBuilt(folder: string): Promise<Guest | undefined> {
  const guest = guestIn(folder, await inputsHash())
  return existsSync(guest.image) ? guest : undefined
}

async function needed(archive: Archive): Promise<Deb[]> {
  const named = new Set([...GUEST_PACKAGES, ...BUILD_PACKAGES])
  const all = await archiveClosure(archive, [...named])
  return all.filter(
    deb =>
      named.has(deb.package) ||
      /^linux-image-\d/.test(deb.package) ||
      (/^(lib|zlib)/.test(deb.package) && !NOT_NEEDED.test(deb.package)),
  )
}

/** The root file system in one file, written from a folder, with the owners that it has inside. */
async function rootFileSystem(tree: string, into: string, signal?: AbortSignal): Promise<void> {
  // Few inodes: when the file system grows to a big disk, each group brings as many again.
  const layout = ['-b', '4096', '-i', '32768', '-m', '0', '-J', 'size=4', '-L', 'guest-root', '-U', UUIDS.root]
  const extended = `root_owner=0:0,hash_seed=${UUIDS.root}`
  await run(['mke2fs', '-q', '-F', '-t', 'ext4', ...layout, '-E', extended, '-d', tree, into, `${ROOT_BYTES / 1024}k`], {
    signal,
  })
  const commands = (await owners(tree)).map(({ path, owner }) => `sif ${path} uid ${owner}\nsif ${path} gid ${owner}\n`)
  // debugfs exits with 0 whatever happens; what it could not do, it says on stderr, after its version.
  const { stderr } = await run(['debugfs', '-w', '-f', '-', into], { input: commands.join(''), signal })
  const complaints = stderr.split('\n').filter(line => line !== '' && !line.startsWith('debugfs '))
  if (complaints.length > 0)
    throw new Error(`debugfs could not set the owners in the guest: ${complaints.slice(0, 5).join('; ')}`)
}

/** The boot partition in one file: kernel, initial file system and both boot loaders. */
async function bootFileSystem(
  debs: string,
  files: { kernel: string; initrd: string },
  into: string,
  signal?: AbortSignal,
): Promise<void> {
  const env = { PATH: `${join(debs, 'usr/bin')}:${process.env.PATH}`, MTOOLS_SKIP_CHECK: '1', MTOOLSRC: '/dev/null' }
  const mtools = (tool: string, ...args: string[]) => run([join(debs, 'usr/bin', tool), '-i', into, ...args], { env, signal })
  const work = dirname(into)
  const text = async (name: string, lines: string[], to: string) => {
    await writeFile(join(work, name), `${lines.join('\n')}\n`)
    await mtools('mcopy', join(work, name), `::${to}`)
  }
  await mtools(
    'mformat',
    '-C',
    '-T',
    String(ESP_BYTES / SECTOR),
    '-h',
    '64',
    '-s',
    '32',
    '-H',
    String(FIRST),
    '-v',
    'BOOT',
    '-N',
    '4e55424f',
    '::',
  )
  await mtools('mmd', '::EFI', '::EFI/BOOT', '::loader', '::loader/entries')
  await mtools('mcopy', files.kernel, '::vmlinuz')
  await mtools('mcopy', files.initrd, '::initrd.img')
  await mtools('mcopy', join(debs, 'usr/lib/systemd/boot/efi/systemd-bootx64.efi'), '::EFI/BOOT/BOOTX64.EFI')
  await text('loader.conf', ['timeout 0', 'default guest.conf'], 'loader/loader.conf')
  await text(
    'guest.conf',
    ['title guest', 'linux /vmlinuz', 'initrd /initrd.img', `options ${COMMAND_LINE}`],
    'loader/entries/guest.conf',
  )
  const syslinux = [
    'DEFAULT guest',
    'PROMPT 0',
    'TIMEOUT 0',
    'LABEL guest',
    '  LINUX /vmlinuz',
    '  INITRD /initrd.img',
    `  APPEND ${COMMAND_LINE}`,
  ]
  await text('syslinux.cfg', syslinux, 'syslinux.cfg')
  await run([join(debs, 'usr/bin/syslinux'), '--install', into], { env, signal })
}

/** Puts the partitions into one raw disk. */
async function disk(debs: string, boot: string, root: string, into: string): Promise<void> {
  const code = await readFile(join(debs, 'usr/lib/syslinux/mbr/gptmbr.bin'))
  const bootSectors = ESP_BYTES / SECTOR
  const rootSectors = ROOT_BYTES / SECTOR
  const rootFirst = FIRST + bootSectors
  const sectors = rootFirst + rootSectors + FIRST
  const { head, tail } = gpt(
    UUIDS.disk,
    sectors,
    [
      { type: EFI_SYSTEM, uuid: UUIDS.esp, name: 'boot', first: FIRST, size: bootSectors, legacyBoot: true },
      { type: LINUX_ROOT_X86_64, uuid: UUIDS.root, name: 'root', first: rootFirst, size: rootSectors },
    ],
    code,
  )
  const file = await open(into, 'w')
  try {
    await file.truncate(sectors * SECTOR)
    await file.write(head, 0, head.length, 0)
    await file.write(tail, 0, tail.length, (sectors - LAST) * SECTOR)
  } finally {
    await file.close()
  }
  await pipeline(createReadStream(boot), createWriteStream(into, { flags: 'r+', start: FIRST * SECTOR }))
  await pipeline(createReadStream(root), createWriteStream(into, { flags: 'r+', start: rootFirst * SECTOR }))
}

async function build(work: string, out: string, say: (line: string) => void, signal?: AbortSignal): Promise<void> {
  const debs = join(work, 'debs')
  const tree = join(work, 'tree')
  const at = (name: string) => join(work, name)
  say(`reading the package lists of Debian ${RELEASE}`)
  const archive = await archiveOpen(join(work, 'apt'), signal)
  const packages = await needed(archive)
  say(`downloading and unpacking ${packages.length} Debian packages`)
  await archiveUnpack(archive, packages, debs, signal)
  say('putting the file systems together')
  await treeBuild(debs, tree)
  const version = await kernelVersion(debs)
  await copyFile(join(debs, `boot/vmlinuz-${version}`), join(out, 'vmlinuz'))
  await writeFile(join(out, 'initrd.img'), await initrdBuild(tree, version))
  await Promise.all([
    rootFileSystem(tree, at('root.img'), signal),
    bootFileSystem(debs, { kernel: join(out, 'vmlinuz'), initrd: join(out, 'initrd.img') }, at('boot.img'), signal),
  ])
  await disk(debs, at('boot.img'), at('root.img'), at('disk.raw'))
  say('compressing the disk')
  await run(['qemu-img', 'convert', '-c', '-f', 'raw', '-O', 'qcow2', at('disk.raw'), join(out, 'guest.qcow2')], {
    timeoutMs: 300_000,
    signal,
  })
  await writeFile(join(out, 'packages.json'), `${JSON.stringify(packages, null, 2)}\n`)
}

/**
 * Gives the guest image, building it if these inputs were not built in `folder` before (about half a minute and 35 MB from the archive).
 * Several may build at once: the first to end wins. Images of other inputs are removed when a new one is there.
 * @throws RunError with the words of apt or of the tool that failed; nothing is left behind then.
 */
export async function guestEnsure(
  folder: string,
  say: (line: string) => void = () => undefined,
  signal?: AbortSignal,
): Promise<Guest> {
  const built = await guestBuilt(folder)
  if (built !== undefined) return built
  const guest = guestIn(folder, await inputsHash())
  await mkdir(folder, { recursive: true })
  const work = await mkdtemp(join(folder, '.build-'))
  try {
    const out = join(work, 'out')
    await mkdir(out)
    await build(work, out, say, signal)
    await rename(out, join(folder, guest.key)).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOTEMPTY' && error.code !== 'EEXIST') throw error
    })
    for (const other of await readdir(folder)) {
      if (/^[0-9a-f]{16}$/.test(other) && other !== guest.key) await rm(join(folder, basename(other)), { recursive: true })
    }
    return guest
  } finally {
    await rm(work, { recursive: true, force: true })
  }
}
