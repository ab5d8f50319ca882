/**
 * Swift's ring files: gzip of `R1NG`, a version, and
 *
 *     v1: length (u32) and JSON of all but the tables, then for each replica a row of u16 device ids in the byte order that the JSON names
 *     v2: blobs with a u64 length before each: metadata, devices, tables (big endian, 2 or 4 bytes an id), and an index of these
 *         sections with their places in the plain and in the packed file, and their SHA-256; at the very end where the index is.
 *         Sections start at full flushes of the compressor, so that readers can jump to one.
 */
import { createHash } from 'node:crypto'
import { readFile, rename, writeFile } from 'node:fs/promises'
import { constants, crc32, deflateRawSync, gunzipSync } from 'node:zlib'
import type { Device } from '../http/client.ts'
import type { Ring } from './ring.ts'

interface WireDevice {
  id: number
  region: number
  zone: number
  ip: string
  port: number
  replication_ip?: string
  replication_port?: number
  device: string
  weight: number
  meta: string
}

const fromWire = (dev: WireDevice | null): Device | null =>
  dev && {
    id: dev.id,
    region: dev.region ?? 1,
    zone: dev.zone,
    ip: dev.ip,
    port: dev.port,
    replicationIp: dev.replication_ip ?? dev.ip,
    replicationPort: dev.replication_port ?? dev.port,
    device: dev.device,
    weight: dev.weight,
    meta: dev.meta ?? '',
  }

const toWire = (dev: Device | null): WireDevice | null =>
  dev && {
    device: dev.device,
    id: dev.id,
    ip: dev.ip,
    meta: dev.meta,
    port: dev.port,
    region: dev.region,
    replication_ip: dev.replicationIp,
    replication_port: dev.replicationPort,
    weight: dev.weight,
    zone: dev.zone,
  }

/** The ring in the bytes of a `.ring.gz`. Throws Error for what is no ring, or one whose sums do not fit. */
export function parseRing(file: Buffer): Ring {
  const plain = gunzipSync(file)
  if (plain.toString('latin1', 0, 4) !== 'R1NG') throw new Error('no ring file: it does not begin with R1NG')
  const version = plain.readUInt16BE(4)
  if (version === 1) return parseOne(plain)
  if (version === 2) return parseTwo(plain)
  throw new Error(`ring files of version ${version} are not known`)
}

/** Reads a `.ring.gz`. */
export const loadRing = async (path: string): Promise<Ring> => parseRing(await readFile(path))

function parseOne(plain: Buffer): Ring {
  const length = plain.readUInt32BE(6)
  const head = JSON.parse(plain.toString('latin1', 10, 10 + length)) as {
    devs: (WireDevice | null)[]
    part_shift: number
    replica_count: number
    byteorder?: string
    version?: number
    next_part_power?: number
  }
  const rows = plain.subarray(10 + length)
  const big = head.byteorder === 'big'
  return {
    partShift: head.part_shift,
    devices: head.devs.map(fromWire),
    table: tables(rows, 2 ** (32 - head.part_shift), head.replica_count, 2, big),
    version: head.version ?? 0,
    nextPartPower: head.next_part_power ?? null,
  }
}

function tables(rows: Buffer, parts: number, count: number, size: 2 | 4, big: boolean): Uint32Array[] {
  const out: Uint32Array[] = []
  for (let at = 0, replica = 0; replica < count && at < rows.length; replica++) {
    const length = Math.min(parts, (rows.length - at) / size)
    const row = new Uint32Array(length)
    for (let i = 0; i < length; i++, at += size) {
      const id =
        size === 2 ? (big ? rows.readUInt16BE(at) : rows.readUInt16LE(at)) : big ? rows.readUInt32BE(at) : rows.readUInt32LE(at)
      row[i] = id
    }
    out.push(row)
  }
  return out
}

type Entry = [packedStart: number, plainStart: number, packedEnd: number, plainEnd: number, method: string, sum: string]

function parseTwo(plain: Buffer): Ring {
  const indexAt = Number(plain.readBigUInt64BE(plain.length - 16))
  const blob = (at: number): Buffer => plain.subarray(at + 8, at + 8 + Number(plain.readBigUInt64BE(at)))
  const index = JSON.parse(blob(indexAt).toString()) as Record<string, Entry>
  const section = (name: string): Buffer => {
    const entry = index[`swift/ring/${name}`]
    if (!entry) throw new Error(`the ring file has no section ${name}`)
    const whole = plain.subarray(entry[1], entry[3])
    if (createHash(entry[4]).update(whole).digest('hex') !== entry[5])
      throw new Error(`section ${name} of the ring file does not match its checksum`)
    return whole.subarray(8)
  }
  const head = JSON.parse(section('metadata').toString()) as {
    part_shift: number
    dev_id_bytes: 2 | 4
    replica_count: number
    version: number
    next_part_power?: number
  }
  return {
    partShift: head.part_shift,
    devices: (JSON.parse(section('devices').toString()) as (WireDevice | null)[]).map(fromWire),
    table: tables(section('assignments'), 2 ** (32 - head.part_shift), Math.ceil(head.replica_count), head.dev_id_bytes, true),
    version: head.version,
    nextPartPower: head.next_part_power ?? null,
  }
}

const sortedJson = (value: unknown): string =>
  JSON.stringify(value, (_, v: unknown) =>
    v && typeof v === 'object' && !Array.isArray(v)
      ? Object.fromEntries(Object.entries(v).sort(([a], [b]) => (a < b ? -1 : 1)))
      : v,
  ).replace(/[\u0080-\uffff]/g, c => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`)

/** The modification time in the header: always the same, so that equal rings are equal files. */
const MTIME = 1300507380

/** The bytes of a `.ring.gz`. Version 1 holds at most 65535 devices. */
export function formatRing(ring: Ring, version: 1 | 2 = 1): Buffer {
  return version === 1 ? formatOne(ring) : formatTwo(ring)
}

/** Writes a `.ring.gz`, whole or not at all. */
export async function saveRing(path: string, ring: Ring, version: 1 | 2 = 1): Promise<void> {
  await writeFile(`${path}.new`, formatRing(ring, version))
  await rename(`${path}.new`, path)
}

interface Gzip {
  plain: number
  packed: number
  write(data: Buffer, level?: number): void
  end(): Buffer
}

/** A gzip file of pieces that can each be unpacked by itself. */
function gzip(): Gzip {
  const header = Buffer.from([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 255])
  header.writeUInt32LE(MTIME, 4)
  const out: Buffer[] = [header]
  let sum = 0
  const writer: Gzip = {
    plain: 0,
    packed: header.length,
    write(data, level = 9) {
      const piece = level === 0 ? storedPiece(data) : deflateRawSync(data, { level, finishFlush: constants.Z_FULL_FLUSH })
      out.push(piece)
      sum = crc32(data, sum)
      writer.plain += data.length
      writer.packed += piece.length
    },
    end() {
      const trailer = Buffer.alloc(13)
      trailer.set([1, 0, 0, 0xff, 0xff])
      trailer.writeUInt32LE(sum, 5)
      trailer.writeUInt32LE(writer.plain % 2 ** 32, 9)
      return Buffer.concat([...out, trailer])
    },
  }
  return writer
}

/** A stored block and an empty one, as a compressor of level 0 gives it at a full flush. */
function storedPiece(data: Buffer): Buffer {
  const head = Buffer.alloc(5)
  head.writeUInt16LE(data.length, 1)
  head.writeUInt16LE(~data.length & 0xffff, 3)
  return Buffer.concat([head, data, Buffer.from([0, 0, 0, 0xff, 0xff])])
}

const u64 = (value: number): Buffer => {
  const out = Buffer.alloc(8)
  out.writeBigUInt64BE(BigInt(value))
  return out
}
const magic = (version: number): Buffer => Buffer.from([0x52, 0x31, 0x4e, 0x47, 0, version])
const highest = (ring: Ring): number => ring.devices.length

function formatOne(ring: Ring): Buffer {
  if (highest(ring) >= 65535) throw new Error('version 1 of the ring file holds at most 65535 devices: use version 2')
  const json = Buffer.from(
    sortedJson({
      byteorder: 'little',
      devs: ring.devices.map(toWire),
      ...(ring.nextPartPower === null ? {} : { next_part_power: ring.nextPartPower }),
      part_shift: ring.partShift,
      replica_count: ring.table.length,
      version: ring.version,
    }),
  )
  const file = gzip()
  const length = Buffer.alloc(4)
  length.writeUInt32BE(json.length)
  file.write(Buffer.concat([magic(1), length, json]))
  for (const row of ring.table) file.write(Buffer.from(Uint16Array.from(row).buffer))
  return file.end()
}

function formatTwo(ring: Ring): Buffer {
  const bytes = highest(ring) >= 65535 ? 4 : 2
  const parts = 2 ** (32 - ring.partShift)
  const assigned = ring.table.reduce((sum, row) => sum + row.length, 0)
  const metadata = {
    dev_id_bytes: bytes,
    ...(ring.nextPartPower === null ? {} : { next_part_power: ring.nextPartPower }),
    part_shift: ring.partShift,
    replica_count: assigned / parts,
    version: ring.version,
  }
  const rows = ring.table.map(row => {
    const out = Buffer.alloc(row.length * bytes)
    row.forEach((id, i) => {
      if (bytes === 2) out.writeUInt16BE(id, i * 2)
      else out.writeUInt32BE(id, i * 4)
    })
    return out
  })
  const file = gzip()
  file.write(magic(2), 0)
  const index: Record<string, Entry> = {}
  const section = (name: string, data: Buffer): void => {
    const blob = Buffer.concat([u64(data.length), data])
    const [packed, plain] = [file.packed, file.plain]
    file.write(blob)
    index[`swift/ring/${name}`] = [
      packed,
      plain,
      file.packed,
      file.plain,
      'sha256',
      createHash('sha256').update(blob).digest('hex'),
    ]
  }
  section('metadata', Buffer.from(sortedJson(metadata)))
  section('devices', Buffer.from(sortedJson(ring.devices.map(toWire))))
  section('assignments', Buffer.concat(rows))
  const [packed, plain] = [file.packed, file.plain]
  const json = Buffer.from(sortedJson(index))
  file.write(Buffer.concat([u64(json.length), json]))
  file.write(u64(plain), 0)
  file.write(u64(packed), 0)
  return file.end()
}
