// What this host's QEMU can do, found out by doing it. /dev/kvm may exist, open and even run real mode, and yet hang each guest at its switch
// to long mode (nested and emulated hypervisors do): so a tiny guest is started under KVM and must get through that switch and write its
// answer to a port in time. Where it does not, guests run under TCG, and the reason is kept for `doctor` and the hypervisor's record.
import { chmod, chown, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { packageOf } from '../programs.ts'
import { RunError, run } from '../run.ts'

/**
 * A firmware of our own, as machine code: from real mode to protected and long mode with paging (identity map of 2 MiB at 0x1000), cpuid,
 * one MiB of stores and a call there; then 0x10 to port 0xf4 (isa-debug-exit: QEMU exits with 0x21), or 0x11 when memory read back wrong.
 *
 *   cli; ds=0xf000; es=0; clear 0x1000-0x3fff; PML4[0]=0x2003; PDPT[0]=0x3003; PD[0]=0x83; lgdt; cr4|=PAE; cr3=0x1000; EFER|=LME;
 *   cr0|=PG|PE; ljmp 8:long; long: ds=ss=16; rsp=0x9000; cpuid(0); rep stosq 0x20000 quads at 1 MiB; rbx=[1 MiB]; compare with the last
 */
const PROBE_CODE =
  'fab800f08ed831c08ec0fcbf0010b90018f3ab2666c7060010032000002666c7060020033000002666c706003083000000660f0116d8000f20e06683c8200f22e0' +
  '66b8001000000f22d866b9800000c00f32660d000100000f300f20c0660d010000800f22c066ea6e000f00080066b810008ed88ed048c7c40090000031c00fa248' +
  'c7c70000100048c7c10000020048b8efcdab8967452301f348abe81600000066baf400b010483b1c25f8ff1f007402b011eef4ebfd488b1c2500001000c3000000' +
  '0000000000ffff0000009aaf00ffff00000092cf001700c0000f00'
const PROBE_OK = (0x10 << 1) | 1

/** The probe's ROM: 64 KiB that end at 1 MiB (and at 4 GiB); the processor starts 16 bytes below the end. */
export function probeRom(): Buffer {
  const rom = Buffer.alloc(64 << 10)
  Buffer.from(PROBE_CODE, 'hex').copy(rom, 0)
  Buffer.from('ea000000f0', 'hex').copy(rom, 0xfff0) // ljmp 0xf000:0
  return rom
}

export type Accel = 'kvm' | 'tcg'

/**
 * Runs the probe's guest under `accel`. Undefined when it ran to its end; else why not, in QEMU's words.
 * `uid` and `groups`: as whom guests will run, since /dev/kvm may be closed to them.
 */
export async function accelTry(
  accel: Accel,
  options: { binary: string; uid?: number; groups?: number[]; timeoutMs?: number },
): Promise<string | undefined> {
  const { binary, uid, groups = [], timeoutMs = 3000 } = options
  const folder = await mkdtemp(join(tmpdir(), 'nubo-probe-'))
  const rom = join(folder, 'rom')
  try {
    await writeFile(rom, probeRom())
    await chmod(rom, 0o644)
    await chmod(folder, 0o755)
    const user = uid === undefined ? [] : userPrefix(uid, groups)
    const cpu = accel === 'kvm' ? 'host' : 'max'
    const machine = ['-nodefaults', '-no-user-config', '-display', 'none', '-M', 'q35', '-accel', accel, '-cpu', cpu, '-m', '16']
    const argv = [...user, binary, ...machine, '-bios', rom, '-device', 'isa-debug-exit,iobase=0xf4,iosize=4']
    await run(argv, { timeoutMs, codes: [PROBE_OK] })
    return undefined
  } catch (error) {
    if (!(error instanceof RunError)) throw error
    if (error.reason === 'timeout') return `a test guest under ${accel} did not get to its end within ${timeoutMs} ms`
    return error.stderr.trim() || error.message
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

const userPrefix = (uid: number, groups: number[]): string[] => [
  'setpriv',
  `--reuid=${uid}`,
  `--regid=${uid}`,
  groups.length > 0 ? `--groups=${groups.join(',')}` : '--clear-groups',
  '--',
]

/** Who may read and write a device node, as seen by an unprivileged process. Pure. */
export function deviceGroups(mode: number, gid: number): number[] | undefined {
  if ((mode & 0o006) === 0o006) return []
  if ((mode & 0o060) === 0o060 && gid !== 0) return [gid]
  return undefined
}

/**
 * Opens a device to guests if it is closed, as udev does by default on an ordinary host, and gives the supplementary groups they need:
 * /dev/net/tun is harmless to all, since without CAP_NET_ADMIN it only opens a tap one owns (Documentation/networking/tuntap.rst);
 * /dev/kvm gets `group`. Undefined when there is no such device.
 */
export async function deviceOpen(path: string, open: { mode: number } | { group: number }): Promise<number[] | undefined> {
  const found = await stat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined
    throw error
  })
  if (!found) return undefined
  const groups = deviceGroups(found.mode, found.gid)
  if (groups) return groups
  if ('mode' in open) {
    await chmod(path, open.mode)
    return []
  }
  await chown(path, 0, open.group)
  await chmod(path, 0o660)
  return [open.group]
}

/** QEMU's version from `--version`: `QEMU emulator version 7.2.22 (…)`. Pure. @throws when it is not there. */
export function parseVersion(text: string): string {
  const version = /version (\d+\.\d+\.\d+)/.exec(text)?.[1]
  if (!version) throw new Error(`no version in: ${text.slice(0, 200)}`)
  return version
}

/** As the API counts versions: 7.2.22 = 7002022. Pure. */
export const versionNumber = (version: string): number => version.split('.').reduce((sum, part) => sum * 1000 + Number(part), 0)

/** QEMU's version. @throws RunError, saying `not installed on this host`, when there is none. */
export const qemuVersion = async (binary: string): Promise<string> => parseVersion((await run([binary, '--version'])).stdout)

/** The CPU features that guests get with the best model of `accel`, by QEMU's names. */
export async function cpuFeatures(binary: string, accel: Accel): Promise<string[]> {
  const model = { type: 'full', model: { name: accel === 'kvm' ? 'host' : 'max' } }
  const commands = [
    { execute: 'qmp_capabilities' },
    { execute: 'query-cpu-model-expansion', arguments: model },
    { execute: 'quit' },
  ]
  const input = commands.map(c => `${JSON.stringify(c)}\n`).join('')
  const argv = [
    binary,
    '-nodefaults',
    '-no-user-config',
    '-display',
    'none',
    '-S',
    '-M',
    'none',
    '-accel',
    accel,
    '-qmp',
    'stdio',
  ]
  return parseFeatures((await run(argv, { input, timeoutMs: 10_000 })).stdout)
}

/** Reads the answer to query-cpu-model-expansion among QMP's lines. Pure. */
export function parseFeatures(text: string): string[] {
  for (const line of text.split('\n')) {
    if (!line.includes('"props"')) continue
    const { return: answer } = JSON.parse(line) as { return: { model: { props: Record<string, unknown> } } }
    return Object.entries(answer.model.props)
      .filter(([, value]) => value === true)
      .map(([name]) => name)
      .sort()
  }
  throw new Error(`no CPU model in QEMU's answer: ${text.slice(0, 400)}`)
}

/** `-machine help`: each alias with the versioned name it stands for, e.g. `q35  … (alias of pc-q35-7.2)`. Pure. */
export function parseMachines(text: string): Record<string, string> {
  const aliases = [...text.matchAll(/^(\S+)\s.*\(alias of (\S+)\)/gm)]
  return Object.fromEntries(aliases.map(([, alias, name]) => [alias, name]))
}

export const machineTypes = async (binary: string): Promise<Record<string, string>> =>
  parseMachines((await run([binary, '-machine', 'help'])).stdout)

/** A pair of firmware files for UEFI guests: code, and the variables that each guest gets a copy of. */
export interface Firmware {
  code: string
  vars: string
  secure: boolean
}

/**
 * Reads firmware descriptors (docs/interop/firmware.json of QEMU; files in /usr/share/qemu/firmware) and gives the first fit: x86_64, UEFI, in flash,
 * with secure boot and enrolled keys or without. Pure: `files` are their contents, in the order of their names.
 */
export function pickFirmware(files: string[], secure: boolean): Firmware | undefined {
  for (const text of files) {
    const d = JSON.parse(text) as {
      'interface-types': string[]
      mapping: { device: string; executable?: { filename: string }; 'nvram-template'?: { filename: string } }
      targets: { architecture: string; machines: string[] }[]
      features: string[]
    }
    const fits =
      d['interface-types'].includes('uefi') &&
      d.targets.some(t => t.architecture === 'x86_64' && t.machines.some(m => /q35/.test(m)))
    const has = (feature: string) => d.features.includes(feature)
    const secureFits = secure
      ? has('secure-boot') && has('enrolled-keys') && has('requires-smm')
      : !has('requires-smm') && !has('secure-boot')
    const code = d.mapping.executable?.filename
    const vars = d.mapping['nvram-template']?.filename
    if (fits && secureFits && d.mapping.device === 'flash' && code && vars) return { code, vars, secure }
  }
  return undefined
}

/** An error's text; for a missing program with the package to install. */
export async function withPackage<T>(work: Promise<T>): Promise<T> {
  try {
    return await work
  } catch (error) {
    if (!(error instanceof RunError)) throw error
    // prlimit and setpriv start the program themselves and say so when it is not there.
    const absent = /failed to execute (\S+?):? No such file/.exec(error.stderr)?.[1]
    const program = error.reason === 'missing' ? error.argv[0] : absent
    if (!program) throw error
    const name = packageOf(program)
    const hint = name ? `: install package ${name}` : ''
    throw new Error(`${program} is not installed on this host${hint}`, { cause: error })
  }
}

/** Reads a file or gives undefined when it is not there. */
export const readText = (path: string): Promise<string | undefined> =>
  readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined
    throw error
  })
