/**
 * A disk's partition table (GPT) with the boot code of syslinux in front, made in memory: no loop device and no root needed. The code
 * (gptmbr.bin, 440 bytes) starts the partition that has the attribute "legacy BIOS bootable"; UEFI starts the one of type "EFI system".
 */
import { crc32 } from 'node:zlib'

export const SECTOR = 512
/** Sectors before the first partition: 1 MiB, as is customary. */
export const FIRST = 2048
const ENTRIES = 128
const ENTRY = 128
const TABLE_SECTORS = (ENTRIES * ENTRY) / SECTOR
/** Sectors behind the last partition: the second table and its header. */
export const LAST = TABLE_SECTORS + 1

export const EFI_SYSTEM = 'c12a7328-f81f-11d2-ba4b-00a0c93ec93b'
export const LINUX_ROOT_X86_64 = '4f68bce3-e8cd-4db1-96e7-fbcaf984b709'

export interface Partition {
  type: string
  uuid: string
  name: string
  /** In sectors. */
  first: number
  size: number
  /** Attribute 2: a BIOS boots from here. */
  legacyBoot?: boolean
}

/** A UUID as GPT stores it: the first three groups little-endian. */
function guid(text: string): Buffer {
  const bytes = Buffer.from(text.replaceAll('-', ''), 'hex')
  bytes.subarray(0, 4).reverse()
  bytes.subarray(4, 6).reverse()
  bytes.subarray(6, 8).reverse()
  return bytes
}

function table(partitions: readonly Partition[]): Buffer {
  const bytes = Buffer.alloc(ENTRIES * ENTRY)
  for (const [i, part] of partitions.entries()) {
    const at = i * ENTRY
    guid(part.type).copy(bytes, at)
    guid(part.uuid).copy(bytes, at + 16)
    bytes.writeBigUInt64LE(BigInt(part.first), at + 32)
    bytes.writeBigUInt64LE(BigInt(part.first + part.size - 1), at + 40)
    bytes.writeBigUInt64LE(part.legacyBoot ? 4n : 0n, at + 48)
    bytes.write(part.name, at + 56, 'utf16le')
  }
  return bytes
}

function header(disk: string, sectors: number, own: number, other: number, tableAt: number, entries: Buffer): Buffer {
  const bytes = Buffer.alloc(SECTOR)
  bytes.write('EFI PART')
  bytes.writeUInt32LE(0x10000, 8)
  bytes.writeUInt32LE(92, 12)
  bytes.writeBigUInt64LE(BigInt(own), 24)
  bytes.writeBigUInt64LE(BigInt(other), 32)
  bytes.writeBigUInt64LE(BigInt(2 + TABLE_SECTORS), 40)
  bytes.writeBigUInt64LE(BigInt(sectors - LAST - 1), 48)
  guid(disk).copy(bytes, 56)
  bytes.writeBigUInt64LE(BigInt(tableAt), 72)
  bytes.writeUInt32LE(ENTRIES, 80)
  bytes.writeUInt32LE(ENTRY, 84)
  bytes.writeUInt32LE(crc32(entries), 88)
  bytes.writeUInt32LE(crc32(bytes.subarray(0, 92)), 16)
  return bytes
}

/** A master boot record with boot code and the one entry that protects a GPT from programs that know only MBR. */
function protectiveMbr(code: Uint8Array, sectors: number): Buffer {
  const bytes = Buffer.alloc(SECTOR)
  bytes.set(code.subarray(0, 440))
  bytes.set([0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff], 446)
  bytes.writeUInt32LE(1, 454)
  bytes.writeUInt32LE(Math.min(sectors - 1, 0xffffffff), 458)
  bytes.writeUInt16LE(0xaa55, 510)
  return bytes
}

/**
 * What stands before and behind the partitions of a disk of `sectors` sectors.
 * @param disk the disk's UUID
 * @returns head, for the start of the disk; tail, for its last LAST sectors
 */
export function gpt(
  disk: string,
  sectors: number,
  partitions: readonly Partition[],
  code: Uint8Array,
): { head: Buffer; tail: Buffer } {
  const entries = table(partitions)
  const last = sectors - 1
  return {
    head: Buffer.concat([protectiveMbr(code, sectors), header(disk, sectors, 1, last, 2, entries), entries]),
    tail: Buffer.concat([entries, header(disk, sectors, last, 1, last - TABLE_SECTORS, entries)]),
  }
}
