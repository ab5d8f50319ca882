/**
 * Headers of disk image formats. Sources: qemu's docs/interop/qcow2.txt and qed_spec.txt, VMware's "Virtual Disk Format 5.0", Microsoft's "VHD Image
 * Format Specification" and [MS-VHDX], VirtualBox's VDICore.h, the LUKS on-disk format, ECMA-119, UEFI's GPT. All integers are read within bounds:
 * a header that is cut off is not of its format.
 */
import type { Finding } from './index.ts'

const starts = (head: Buffer, magic: string | Buffer, at = 0): boolean => {
  const bytes = typeof magic === 'string' ? Buffer.from(magic, 'latin1') : magic
  return head.length >= at + bytes.length && head.subarray(at, at + bytes.length).equals(bytes)
}
const number = (value: bigint): number => (value > BigInt(Number.MAX_SAFE_INTEGER) ? Number.MAX_SAFE_INTEGER : Number(value))

/** Incompatible feature bits of version 3 that are safe: dirty, corrupt, compression type, extended L2. Bit 2 is an external data file. */
const QCOW2_KNOWN = 0b11011n

export function qcow2(head: Buffer): Finding | undefined {
  if (!starts(head, 'QFI\xfb') || head.length < 72) return undefined
  const version = head.readUInt32BE(4)
  const found: Finding = { format: 'qcow2', virtualSize: number(head.readBigUInt64BE(24)) }
  if (version < 2 || version > 3) return { ...found, danger: `qcow2 of version ${version} is not supported` }
  if (head.readBigUInt64BE(8) !== 0n)
    return { ...found, danger: 'the qcow2 has a backing file, which could be any file of a host' }
  if (version === 2) return found
  if (head.length < 104) return { ...found, danger: 'the qcow2 header is cut off' }
  const features = head.readBigUInt64BE(72)
  if (features & 4n)
    return { ...found, danger: 'the qcow2 keeps its data in an external file, which could be any file of a host' }
  if (features & ~(QCOW2_KNOWN | 4n)) return { ...found, danger: `the qcow2 has unknown features (${features.toString(16)})` }
  return { ...found, ...extensions(head) }
}

/** A data file may also be named by a header extension alone. */
function extensions(head: Buffer): Partial<Finding> {
  const length = head.readUInt32BE(100)
  for (let at = length; at + 8 <= head.length; ) {
    const [type, size] = [head.readUInt32BE(at), head.readUInt32BE(at + 4)]
    if (type === 0) return {}
    if (type === 0x44415441) return { danger: 'the qcow2 names an external data file' }
    if (type === 0xe2792aca) return { danger: 'the qcow2 names the format of a backing file' }
    at += 8 + Math.ceil(size / 8) * 8
  }
  return {}
}

export function qed(head: Buffer): Finding | undefined {
  return starts(head, 'QED\0') ? { format: 'qed', danger: 'QED images are not supported' } : undefined
}

const VMDK_SAFE = new Set(['monolithicSparse', 'streamOptimized'])

export function vmdk(head: Buffer): Finding | undefined {
  if (starts(head, '# Disk DescriptorFile')) {
    return { format: 'vmdk', danger: 'the vmdk is only a descriptor, whose extents could be any file of a host' }
  }
  if (!starts(head, 'KDMV') || head.length < 512) return undefined
  const found: Finding = { format: 'vmdk', virtualSize: number(head.readBigUInt64LE(12) * 512n) }
  const [at, sectors] = [number(head.readBigUInt64LE(28)) * 512, number(head.readBigUInt64LE(36))]
  if (at === 0 || sectors === 0 || at + 512 > head.length) return { ...found, danger: 'the vmdk has no descriptor within it' }
  const descriptor = head.subarray(at, Math.min(head.length, at + Math.min(sectors, 64) * 512)).toString('latin1')
  const type = /^createType\s*=\s*"([^"]*)"/m.exec(descriptor)?.[1]
  if (!type || !VMDK_SAFE.has(type))
    return { ...found, danger: `a vmdk of type ${type ?? 'unknown'} is not supported: only ${[...VMDK_SAFE].join(' and ')}` }
  const extents = descriptor.split('\n').filter(line => /^\s*(RW|RDONLY|NOACCESS)\b/.test(line))
  if (extents.length !== 1 || /[/\\]/.test(extents[0]!)) return { ...found, danger: 'the vmdk names other files as its extents' }
  return found
}

export function vhdx(head: Buffer): Finding | undefined {
  if (!starts(head, 'vhdxfile')) return undefined
  return { format: 'vhdx', virtualSize: vhdxSize(head) }
}

const REGION_METADATA = Buffer.from('06a27c8b90479a4bb8fe575f050f886e', 'hex')
const ITEM_SIZE = Buffer.from('2442a52f1bcd7648b2115dbed83bf4b8', 'hex')

/** Follows region table and metadata table to the virtual disk size; undefined when they lie outside what was kept. */
function vhdxSize(head: Buffer): number | undefined {
  const table = 0x30000
  if (!starts(head, 'regi', table)) return undefined
  const regions = Math.min(head.readUInt32LE(table + 8), 64)
  for (let i = 0; i < regions; i++) {
    const entry = table + 16 + i * 32
    if (entry + 32 > head.length || !starts(head, REGION_METADATA, entry)) continue
    const at = number(head.readBigUInt64LE(entry + 16))
    if (at + 32 > head.length) return undefined
    const items = Math.min(head.readUInt16LE(at + 10), 64)
    for (let j = 0; j < items; j++) {
      const item = at + 32 + j * 32
      if (item + 32 > head.length || !starts(head, ITEM_SIZE, item)) continue
      const value = at + head.readUInt32LE(item + 16)
      return value + 8 <= head.length ? number(head.readBigUInt64LE(value)) : undefined
    }
  }
  return undefined
}

export function vhd(head: Buffer): Finding | undefined {
  if (!starts(head, 'conectix') || head.length < 512) return undefined
  const type = head.readUInt32BE(60)
  const found: Finding = { format: 'vhd', virtualSize: number(head.readBigUInt64BE(48)) }
  return type === 4 ? { ...found, danger: 'the vhd is a difference to another file, which could be any file of a host' } : found
}

export function vdi(head: Buffer): Finding | undefined {
  if (head.length < 512 || head.readUInt32LE(0x40) !== 0xbeda107f) return undefined
  return { format: 'vdi', virtualSize: number(head.readBigUInt64LE(0x170)) }
}

export function luks(head: Buffer): Finding | undefined {
  return starts(head, 'LUKS\xba\xbe') ? { format: 'luks' } : undefined
}

export function iso(head: Buffer): Finding | undefined {
  return starts(head, 'CD001', 0x8001) ? { format: 'iso' } : undefined
}

/** Any partition table: MBR's signature, with a GPT behind it or not. */
export function gpt(head: Buffer): Finding | undefined {
  return head.length >= 512 && head.readUInt16LE(510) === 0xaa55 && head[446]! % 128 === 0 ? { format: 'gpt' } : undefined
}
