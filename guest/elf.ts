/** The shared libraries that a program needs, read from its ELF file: what ldd would say, without running anything. */
import { readFile } from 'node:fs/promises'

const DT_NEEDED = 1n
const DT_STRTAB = 5n
const PT_LOAD = 1
const PT_DYNAMIC = 2

/** Names of the needed libraries (DT_NEEDED); empty for what is no 64-bit little-endian ELF file or is linked statically. */
export async function elfNeeded(path: string): Promise<string[]> {
  const file = await readFile(path)
  if (file.length < 64 || file.readUInt32BE(0) !== 0x7f454c46 || file[4] !== 2 || file[5] !== 1) return []
  const segments = Array.from({ length: file.readUInt16LE(56) }, (_, i) => {
    const at = Number(file.readBigUInt64LE(32)) + i * file.readUInt16LE(54)
    return {
      type: file.readUInt32LE(at),
      offset: Number(file.readBigUInt64LE(at + 8)),
      address: Number(file.readBigUInt64LE(at + 16)),
      size: Number(file.readBigUInt64LE(at + 32)),
    }
  })
  const dynamic = segments.find(segment => segment.type === PT_DYNAMIC)
  if (dynamic === undefined) return []
  const needed: number[] = []
  let strings = 0
  for (let at = dynamic.offset; at < dynamic.offset + dynamic.size; at += 16) {
    const tag = file.readBigInt64LE(at)
    if (tag === DT_NEEDED) needed.push(Number(file.readBigUInt64LE(at + 8)))
    if (tag === DT_STRTAB) strings = Number(file.readBigUInt64LE(at + 8))
  }
  // The string table is given by its address in memory; find the segment of the file that is loaded there.
  const home = segments.find(s => s.type === PT_LOAD && strings >= s.address && strings < s.address + s.size)
  if (home === undefined) return []
  const table = strings - home.address + home.offset
  return needed.map(offset => file.toString('latin1', table + offset, file.indexOf(0, table + offset)))
}
