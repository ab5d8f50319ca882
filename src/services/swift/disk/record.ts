/**
 * The file of one object on disk.
 *
 *     [ object bytes ][ CRC-32 of each 64 KiB block, 4 bytes each ][ metadata, JSON ][ footer, 24 bytes ]
 *     footer: bytes of the CRC table (u32) · bytes of the metadata (u32) · CRC-32 of table, metadata and the two lengths (u32)
 *             · zero (u32) · "NUBOOBJ1"
 *
 * Metadata is in the same file as the data, so that one rename publishes both and no file system needs extended attributes. Every byte
 * is covered: a flipped bit in the data shows in its block's sum *before* that block is sent to anyone, one in the rest shows at open.
 * `.meta` and `.ts` files are the same form with no data.
 */
import type { FileHandle } from 'node:fs/promises'
import { crc32 } from 'node:zlib'
import type { Headers } from '../http/message.ts'

export const BLOCK = 65536
const FOOTER = 24
const MAGIC = Buffer.from('NUBOOBJ1')
/** Enough for the footer, the metadata and, of a small object, all of it. */
const TAIL = 65536

/** The file does not match its own checksums. */
export class Corrupt extends Error {}

/** Collects block checksums while data is written. */
export class BlockSums {
  private sums: number[] = []
  private sum = 0
  private filled = 0
  update(data: Buffer): void {
    let at = 0
    while (at < data.length) {
      const take = Math.min(BLOCK - this.filled, data.length - at)
      this.sum = crc32(data.subarray(at, at + take), this.sum)
      this.filled += take
      at += take
      if (this.filled === BLOCK) this.close()
    }
  }
  private close(): void {
    this.sums.push(this.sum)
    this.sum = 0
    this.filled = 0
  }
  table(): Buffer {
    if (this.filled) this.close()
    const table = Buffer.allocUnsafe(this.sums.length * 4)
    this.sums.forEach((sum, i) => {
      table.writeUInt32BE(sum, i * 4)
    })
    return table
  }
}

/** What follows the data. */
export function tail(table: Buffer, metadata: Headers): Buffer {
  const json = Buffer.from(JSON.stringify(metadata))
  const out = Buffer.allocUnsafe(table.length + json.length + FOOTER)
  table.copy(out, 0)
  json.copy(out, table.length)
  const at = table.length + json.length
  out.writeUInt32BE(table.length, at)
  out.writeUInt32BE(json.length, at + 4)
  out.writeUInt32BE(crc32(out.subarray(0, at + 8)), at + 8)
  out.writeUInt32BE(0, at + 12)
  MAGIC.copy(out, at + 16)
  return out
}

export interface Opened {
  metadata: Headers
  /** Bytes of data. */
  size: number
  table: Buffer
  /** All the data, when the file is so small that one read fetched it. */
  data: Buffer | null
}

/** Reads and checks what follows the data. Throws Corrupt. */
export async function openRecord(file: FileHandle, fileSize?: number): Promise<Opened> {
  const total = fileSize ?? (await file.stat()).size
  let end = Buffer.allocUnsafe(Math.min(total, TAIL))
  await readFully(file, end, total - end.length)
  const after = lengthAfter(end, total)
  if (after > end.length) {
    end = Buffer.allocUnsafe(after)
    await readFully(file, end, total - after)
  }
  return opened(end, total, after)
}

/** The same of a file that was read whole. Throws Corrupt. */
export const recordOf = (bytes: Buffer): Opened => opened(bytes, bytes.length, lengthAfter(bytes, bytes.length))

/** Bytes that follow the data in a file of `total` bytes that ends so. */
function lengthAfter(end: Buffer, total: number): number {
  if (total < FOOTER) throw new Corrupt('shorter than its footer')
  const at = end.length - FOOTER
  if (end.compare(MAGIC, 0, MAGIC.length, at + 16) !== 0 || end.readUInt32BE(at + 12) !== 0) throw new Corrupt('no footer')
  const after = end.readUInt32BE(at) + end.readUInt32BE(at + 4) + FOOTER
  if (after > total || end.readUInt32BE(at) % 4) throw new Corrupt('lengths do not fit')
  return after
}

function opened(end: Buffer, total: number, after: number): Opened {
  const covered = end.subarray(end.length - after, end.length - FOOTER + 8)
  if (crc32(covered) !== end.readUInt32BE(end.length - FOOTER + 8)) throw new Corrupt('metadata does not match its checksum')
  const tableBytes = end.readUInt32BE(end.length - FOOTER)
  const jsonBytes = after - tableBytes - FOOTER
  const size = total - after
  if (Math.ceil(size / BLOCK) * 4 !== tableBytes) throw new Corrupt('checksum table does not fit the size')
  const table = covered.subarray(0, tableBytes)
  const metadata = JSON.parse(covered.toString('utf8', tableBytes, tableBytes + jsonBytes)) as Headers
  let data: Buffer | null = null
  if (total <= end.length) {
    data = end.subarray(end.length - total, end.length - after)
    check(data, 0, table)
  }
  return { metadata, size, table, data }
}

/** Compares whole blocks, the first of which is block `first`, with the table. Throws Corrupt. */
export function check(data: Buffer, first: number, table: Buffer): void {
  for (let at = 0, block = first; at < data.length; at += BLOCK, block++) {
    if (crc32(data.subarray(at, at + BLOCK)) !== table.readUInt32BE(block * 4))
      throw new Corrupt(`block ${block} does not match its checksum`)
  }
}

/** Fills the buffer from that position. Throws Corrupt when the file ends first. */
export async function readFully(file: FileHandle, into: Buffer, position: number): Promise<void> {
  let done = 0
  while (done < into.length) {
    const { bytesRead } = await file.read(into, done, into.length - done, position + done)
    if (bytesRead === 0) throw new Corrupt('file is shorter than it says')
    done += bytesRead
  }
}

/** The data from `start` up to (not with) `end`, each block checked before it is given out; reads of 512 KiB. */
export async function* readChecked(file: FileHandle, opened: Opened, start: number, end: number): AsyncGenerator<Buffer> {
  if (opened.data) {
    if (end > start) yield opened.data.subarray(start, end)
    return
  }
  let block = Math.floor(start / BLOCK)
  while (block * BLOCK < end) {
    const from = block * BLOCK
    const to = Math.min(from + 8 * BLOCK, Math.ceil(end / BLOCK) * BLOCK, opened.size)
    const buffer = Buffer.allocUnsafeSlow(to - from)
    await readFully(file, buffer, from)
    check(buffer, block, opened.table)
    yield buffer.subarray(Math.max(0, start - from), Math.min(buffer.length, end - from))
    block += 8
  }
}
