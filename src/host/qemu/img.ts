// qemu-img, held on a short lead: disk images come from tenants, and a hostile one has made image tools eat a host's memory and time.
// Each call that opens an image runs under prlimit (address space, CPU time) and a deadline; inspection also runs as an unprivileged
// user. The format is always named by us: a probed format lets a raw disk's guest write itself a qcow2 header that names a host file.
import { type RunPlace, run } from '../run.ts'

/** What `qemu-img info --output=json` says, as far as it matters. */
export interface ImageInfo {
  format: string
  virtualSize: number
  actualSize: number
  backingFile?: string
  backingFormat?: string
  /** qcow2: bytes live in another file. */
  dataFile?: string
  encrypted: boolean
  clusterSize?: number
  /** qcow2 internal snapshots, by name. */
  snapshots: string[]
  corrupt: boolean
  /** vmdk: how it is laid out. */
  createType?: string
}

/** Reads the JSON of `qemu-img info`. Pure. @throws when it is no such JSON. */
export function parseInfo(text: string): ImageInfo {
  const raw = JSON.parse(text) as Record<string, unknown>
  const specific = ((raw['format-specific'] as { data?: Record<string, unknown> })?.data ?? {}) as Record<string, unknown>
  if (typeof raw.format !== 'string' || typeof raw['virtual-size'] !== 'number')
    throw new Error(`not the output of qemu-img info: ${text}`)
  return {
    format: raw.format,
    virtualSize: raw['virtual-size'],
    actualSize: (raw['actual-size'] as number) ?? 0,
    backingFile: (raw['full-backing-filename'] ?? raw['backing-filename']) as string | undefined,
    backingFormat: raw['backing-filename-format'] as string | undefined,
    dataFile: (specific['data-file'] ?? specific['data-file-raw-name']) as string | undefined,
    encrypted: raw.encrypted === true,
    clusterSize: raw['cluster-size'] as number | undefined,
    snapshots: ((raw.snapshots as { name: string }[]) ?? []).map(s => s.name),
    corrupt: specific.corrupt === true,
    createType: specific['create-type'] as string | undefined,
  }
}

/** Why an image must not be used, or undefined. A size in the header beyond `maxVirtual` bytes is one. Pure. */
export function unsafe(info: ImageInfo, format: string, maxVirtual: number): string | undefined {
  if (info.format !== format) return `it is ${info.format}, not ${format}`
  if (info.backingFile) return `it has a backing file (${info.backingFile})`
  if (info.dataFile) return `its data is in another file (${info.dataFile})`
  // The other layouts of vmdk name further files of the host.
  if (format === 'vmdk' && !['monolithicSparse', 'streamOptimized'].includes(info.createType ?? ''))
    return `its vmdk layout is ${info.createType}`
  if (info.encrypted) return 'it is encrypted'
  if (info.corrupt) return 'it is marked corrupt'
  if (info.virtualSize > maxVirtual) return `its virtual size is ${info.virtualSize} bytes, more than the ${maxVirtual} allowed`
  return undefined
}

/** Limits of one call: as nova's image tools have (1 GiB of address space, 30 s of CPU), more for conversions. */
interface Lead extends RunPlace {
  signal?: AbortSignal
  addressSpace?: number
  cpuSeconds?: number
  timeoutMs?: number
}

function img(args: string[], lead: Lead = {}) {
  const { addressSpace = 1 << 30, cpuSeconds = 30, timeoutMs = 60_000, ...place } = lead
  return run(['prlimit', `--as=${addressSpace}`, `--cpu=${cpuSeconds}`, '--', 'qemu-img', ...args], { timeoutMs, ...place })
}

/** Inspects an image as `format` says it is. Images of guests that run are read with -U (shared). @throws RunError. */
export async function imgInfo(path: string, format: string, lead?: Lead & { shared?: boolean }): Promise<ImageInfo> {
  const { shared, ...rest } = lead ?? {}
  const { stdout } = await img(['info', ...(shared ? ['-U'] : []), '--output=json', '-f', format, path], rest)
  return parseInfo(stdout)
}

/** Makes an empty qcow2 of `bytes`, as the user that `lead` names. Beside a guest's disk: see qcow2.ts. */
export async function imgCreate(path: string, bytes: number, lead: Lead): Promise<void> {
  await img(['create', '-q', '-f', 'qcow2', path, String(bytes)], lead)
}

/** Grows an image to `bytes`. qemu-img refuses to shrink, and so do we. */
export async function imgResize(path: string, format: string, bytes: number, lead?: Lead): Promise<void> {
  await img(['resize', '-q', '-f', format, path, String(bytes)], lead)
}

/** Copies an image whole (without its backing chain) into another format. Sparse stays sparse. An hour at most. */
export async function imgConvert(
  from: { path: string; format: string; shared?: boolean },
  to: { path: string; format: 'qcow2' | 'raw'; compress?: boolean },
  lead?: Lead,
): Promise<void> {
  const flags = [...(from.shared ? ['-U'] : []), ...(to.compress ? ['-c'] : [])]
  const patience = { addressSpace: 4 * (1 << 30), cpuSeconds: 3600, timeoutMs: 3_600_000 }
  await img(['convert', '-q', ...flags, '-f', from.format, '-O', to.format, from.path, to.path], { ...patience, ...lead })
}

/** `qemu-img check`: errors and leaks counted; exit 2 and 3 are answers (corruptions, leaks). */
export async function imgCheck(path: string, format: string, lead?: Lead): Promise<{ corruptions: number; leaks: number }> {
  const { addressSpace = 1 << 30, cpuSeconds = 300, timeoutMs = 600_000, ...place } = lead ?? {}
  const argv = [
    'prlimit',
    `--as=${addressSpace}`,
    `--cpu=${cpuSeconds}`,
    '--',
    'qemu-img',
    'check',
    '--output=json',
    '-f',
    format,
    path,
  ]
  const { stdout } = await run(argv, { timeoutMs, codes: [0, 2, 3], ...place })
  return parseCheck(stdout)
}

/** Reads the JSON of `qemu-img check`. Pure. */
export function parseCheck(text: string): { corruptions: number; leaks: number } {
  const raw = JSON.parse(text) as { corruptions?: number; leaks?: number }
  return { corruptions: raw.corruptions ?? 0, leaks: raw.leaks ?? 0 }
}
