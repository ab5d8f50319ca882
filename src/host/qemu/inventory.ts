// What this host has, from the kernel's files. Parsing is pure.
import { readdir, readFile, statfs } from 'node:fs/promises'
import { loadavg, uptime } from 'node:os'
import { join } from 'node:path'

export interface CpuInfo {
  vendor: string
  model: string
  /** Threads that the kernel runs on. */
  online: number
  topology: { sockets: number; cores: number; threads: number }
  flags: string[]
}

/** /proc/cpuinfo of x86 (and enough of arm64's to count). Pure. */
export function parseCpuInfo(text: string): CpuInfo {
  const processors = text
    .split(/\n\n+/)
    .map(block => new Map(block.split('\n').map(line => line.split(/\s*:\s*/, 2) as [string, string])))
    .filter(fields => fields.has('processor'))
  const first = processors[0]
  const sockets = new Set(processors.map(p => p.get('physical id') ?? '0')).size || 1
  const cores = new Set(processors.map(p => `${p.get('physical id') ?? '0'}/${p.get('core id') ?? p.get('processor')}`)).size || 1
  const online = processors.length || 1
  return {
    vendor: VENDOR[first?.get('vendor_id') ?? ''] ?? first?.get('vendor_id') ?? 'unknown',
    model: first?.get('model name') ?? 'unknown',
    online,
    topology: { sockets, cores: Math.max(1, Math.round(cores / sockets)), threads: Math.max(1, Math.round(online / cores)) },
    flags: (first?.get('flags') ?? first?.get('Features') ?? '').split(' ').filter(Boolean).sort(),
  }
}
const VENDOR: Record<string, string> = { GenuineIntel: 'Intel', AuthenticAMD: 'AMD' }

/** /proc/meminfo, in MiB. Pure. */
export function parseMemInfo(text: string): { totalMb: number; availableMb: number } {
  const kb = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(text)?.[1] ?? 0)
  return { totalMb: Math.floor(kb('MemTotal') / 1024), availableMb: Math.floor((kb('MemAvailable') || kb('MemFree')) / 1024) }
}

/** QEMU's (and the kernel's) feature name → the trait's suffix after HW_CPU_X86_. */
const CPU_TRAITS: Record<string, string> = {
  abm: 'ABM',
  aes: 'AESNI',
  avx: 'AVX',
  avx2: 'AVX2',
  avx512bw: 'AVX512BW',
  avx512cd: 'AVX512CD',
  avx512dq: 'AVX512DQ',
  avx512er: 'AVX512ER',
  avx512f: 'AVX512F',
  avx512ifma: 'AVX512IFMA',
  avx512pf: 'AVX512PF',
  avx512vbmi: 'AVX512VBMI',
  'avx512-vbmi2': 'AVX512VBMI2',
  avx512vl: 'AVX512VL',
  'avx512-vnni': 'AVX512VNNI',
  bmi1: 'BMI',
  bmi2: 'BMI2',
  pclmulqdq: 'CLMUL',
  f16c: 'F16C',
  fma: 'FMA3',
  fma4: 'FMA4',
  gfni: 'AVX512GFNI',
  mmx: 'MMX',
  mpx: 'MPX',
  pdpe1gb: 'PDPE1GB',
  pni: 'SSE3',
  'sha-ni': 'SHA',
  sse: 'SSE',
  sse2: 'SSE2',
  'sse4.1': 'SSE41',
  'sse4.2': 'SSE42',
  sse4a: 'SSE4A',
  ssse3: 'SSSE3',
  stibp: 'STIBP',
  svm: 'AMD_SVM',
  tbm: 'TBM',
  vmx: 'INTEL_VMX',
  xop: 'XOP',
  '3dnow': '3DNOW',
}

/** CPU traits of os-traits for the features that guests get. Pure. */
export function cpuTraits(features: string[]): string[] {
  return [...new Set(features.flatMap(f => (CPU_TRAITS[f] ? [`HW_CPU_X86_${CPU_TRAITS[f]}`] : [])))].sort()
}

export interface HostNumbers {
  cpu: CpuInfo
  memoryMb: number
  memoryFreeMb: number
  diskGb: number
  diskFreeGb: number
  uptimeSeconds: number
  loadAverage: [number, number, number]
}

/** The host's numbers now; the disk is the one that `folder` is on. */
export async function hostNumbers(folder: string): Promise<HostNumbers> {
  const [cpuText, memText, disk] = await Promise.all([
    readFile('/proc/cpuinfo', 'utf8'),
    readFile('/proc/meminfo', 'utf8'),
    statfs(folder),
  ])
  const memory = parseMemInfo(memText)
  const gb = (blocks: number) => Math.floor((blocks * disk.bsize) / 2 ** 30)
  return {
    cpu: parseCpuInfo(cpuText),
    memoryMb: memory.totalMb,
    memoryFreeMb: memory.availableMb,
    diskGb: gb(disk.blocks),
    diskFreeGb: gb(disk.bavail),
    uptimeSeconds: Math.floor(uptime()),
    loadAverage: loadavg() as [number, number, number],
  }
}

/** The texts of the firmware descriptors on this host, those of /etc before those of /usr where names are equal, in name order. */
export async function firmwareDescriptors(folders = ['/usr/share/qemu/firmware', '/etc/qemu/firmware']): Promise<string[]> {
  const byName = new Map<string, string>()
  for (const folder of folders) {
    const names = await readdir(folder).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return []
      throw error
    })
    for (const name of names) if (name.endsWith('.json')) byName.set(name, join(folder, name))
  }
  const paths = [...byName].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, path]) => path)
  return Promise.all(paths.map(path => readFile(path, 'utf8')))
}
