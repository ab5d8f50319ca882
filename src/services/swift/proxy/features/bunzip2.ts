/**
 * bzip2 decompression. Each block: Huffman-coded symbols (tables switch every 50 symbols) → run lengths of zeros and move-to-front →
 * inverse Burrows-Wheeler transform → run lengths of bytes. See the description of the format in the bzip2 sources.
 */

interface Bits {
  read(n: number): Promise<number>
  align(): void
  atEnd(): Promise<boolean>
}

/** The plain bytes. Throws Error for what is not bzip2. */
export async function* bunzip2(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const bits = bitReader(source)
  let first = true
  while (first || !(await bits.atEnd())) {
    if ((await bits.read(16)) !== 0x425a || (await bits.read(8)) !== 0x68) throw new Error('not a bzip2 file')
    const level = (await bits.read(8)) - 48
    if (level < 1 || level > 9) throw new Error('not a bzip2 file')
    first = false
    for (;;) {
      const high = await bits.read(24)
      const low = await bits.read(24)
      if (high === 0x177245 && low === 0x385090) {
        await bits.read(32)
        bits.align()
        break
      }
      if (high !== 0x314159 || low !== 0x265359) throw new Error('damaged bzip2 file')
      yield await block(bits, level * 100_000)
    }
  }
}

async function block(bits: Bits, most: number): Promise<Buffer> {
  await bits.read(32) // checksum of the block
  if (await bits.read(1)) throw new Error('randomised bzip2 blocks are not supported')
  const origin = await bits.read(24)
  const used = await symbols(bits)
  const groups = await bits.read(3)
  const selectorCount = await bits.read(15)
  if (groups < 2 || groups > 6 || selectorCount < 1) throw new Error('damaged bzip2 file')
  const order = Array.from({ length: groups }, (_, i) => i)
  const selectors = new Uint8Array(selectorCount)
  for (let i = 0; i < selectorCount; i++) {
    let at = 0
    while (await bits.read(1)) if (++at >= groups) throw new Error('damaged bzip2 file')
    const [table] = order.splice(at, 1)
    order.unshift(table)
    selectors[i] = table
  }
  const alphabet = used.length + 2
  const tables = []
  for (let i = 0; i < groups; i++) tables.push(await huffman(bits, alphabet))
  const { data, length, counts } = await frontMoved(bits, tables, selectors, used, most)
  return plain(data, length, counts, origin)
}

async function symbols(bits: Bits): Promise<number[]> {
  const ranges = await bits.read(16)
  const used: number[] = []
  for (let i = 0; i < 16; i++) {
    if (!(ranges & (0x8000 >> i))) continue
    const within = await bits.read(16)
    for (let j = 0; j < 16; j++) if (within & (0x8000 >> j)) used.push(i * 16 + j)
  }
  return used
}

interface Table {
  limit: Int32Array
  base: Int32Array
  permutation: Uint16Array
  shortest: number
}

async function huffman(bits: Bits, size: number): Promise<Table> {
  const lengths = new Uint8Array(size)
  let length = await bits.read(5)
  for (let i = 0; i < size; i++) {
    for (;;) {
      if (length < 1 || length > 20) throw new Error('damaged bzip2 file')
      if (!(await bits.read(1))) break
      length += (await bits.read(1)) ? -1 : 1
    }
    lengths[i] = length
  }
  const shortest = Math.min(...lengths)
  const permutation = new Uint16Array(size)
  const limit = new Int32Array(22).fill(-1)
  const base = new Int32Array(22)
  let code = 0
  let at = 0
  for (let n = shortest; n <= 20; n++) {
    base[n] = at - code
    for (let i = 0; i < size; i++) {
      if (lengths[i] !== n) continue
      permutation[at++] = i
      code += 1
    }
    limit[n] = code - 1
    code <<= 1
  }
  return { limit, base, permutation, shortest }
}

async function frontMoved(
  bits: Bits,
  tables: Table[],
  selectors: Uint8Array,
  used: number[],
  most: number,
): Promise<{ data: Uint32Array; length: number; counts: Uint32Array }> {
  const data = new Uint32Array(most)
  const counts = new Uint32Array(256)
  const front = [...used]
  const end = used.length + 1
  let length = 0
  let run = 0
  let weight = 1
  let left = 0
  let group = 0
  let table = tables[0]
  const flush = (): void => {
    if (!run) return
    if (length + run > most) throw new Error('damaged bzip2 file')
    counts[front[0]] += run
    data.fill(front[0], length, length + run)
    length += run
    run = 0
    weight = 1
  }
  for (;;) {
    if (left === 0) {
      if (group >= selectors.length) throw new Error('damaged bzip2 file')
      table = tables[selectors[group++]]
      left = 50
    }
    left -= 1
    let n = table.shortest
    let code = await bits.read(n)
    while (code > table.limit[n]) {
      if (++n > 20) throw new Error('damaged bzip2 file')
      code = (code << 1) | (await bits.read(1))
    }
    const symbol = table.permutation[table.base[n] + code]
    if (symbol === 0 || symbol === 1) {
      run += weight << symbol
      weight <<= 1
      continue
    }
    flush()
    if (symbol === end) return { data, length, counts }
    if (length >= most) throw new Error('damaged bzip2 file')
    const [byte] = front.splice(symbol - 1, 1)
    front.unshift(byte)
    counts[byte] += 1
    data[length++] = byte
  }
}

function plain(data: Uint32Array, length: number, counts: Uint32Array, origin: number): Buffer {
  const starts = new Uint32Array(256)
  for (let i = 1; i < 256; i++) starts[i] = starts[i - 1] + counts[i - 1]
  for (let i = 0; i < length; i++) data[starts[data[i] & 0xff]++] |= i << 8
  const out: Buffer[] = []
  let piece = Buffer.allocUnsafe(65536)
  let at = 0
  const push = (byte: number): void => {
    if (at === piece.length) {
      out.push(piece)
      piece = Buffer.allocUnsafe(65536)
      at = 0
    }
    piece[at++] = byte
  }
  let position = data[origin] >>> 8
  let same = 0
  let last = -1
  for (let i = 0; i < length; i++) {
    const byte = data[position] & 0xff
    position = data[position] >>> 8
    if (same === 4) {
      for (let n = 0; n < byte; n++) push(last)
      same = 0
      last = -1
      continue
    }
    same = byte === last ? same + 1 : 1
    last = byte
    push(byte)
  }
  out.push(piece.subarray(0, at))
  return Buffer.concat(out)
}

function bitReader(source: AsyncIterable<Buffer>): Bits {
  const iterator = source[Symbol.asyncIterator]()
  let chunk: Buffer = Buffer.alloc(0)
  let at = 0
  let held = 0
  let count = 0
  const fill = async (): Promise<boolean> => {
    while (at >= chunk.length) {
      const next = await iterator.next()
      if (next.done) return false
      chunk = next.value
      at = 0
    }
    return true
  }
  const now = (n: number): number => {
    let value = 0
    let want = n
    while (want > 0) {
      if (count === 0) {
        held = chunk[at++]
        count = 8
      }
      const take = Math.min(want, count)
      value = value * 2 ** take + ((held >> (count - take)) & ((1 << take) - 1))
      count -= take
      want -= take
    }
    return value
  }
  return {
    async read(n) {
      if ((chunk.length - at) * 8 + count >= n) return now(n)
      let value = 0
      for (let i = 0; i < n; i++) {
        if (count === 0 && !(await fill())) throw new Error('unexpected end of data')
        value = value * 2 + now(1)
      }
      return value
    },
    align() {
      count = 0
    },
    async atEnd() {
      return !(await fill())
    },
  }
}
