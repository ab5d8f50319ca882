/** Reads a tar archive as it streams by: ustar, GNU long names, pax headers (names, sizes, extended attributes). */

export interface Entry {
  name: string
  size: number
  isFile: boolean
  /** Extended attributes of pax headers (`SCHILY.xattr.user.…`). */
  attributes: Record<string, string>
  /** The bytes; to be read before the next entry is asked for. */
  data(): AsyncGenerator<Buffer>
}

/** The entries in order. Throws Error for what is no tar archive. */
export async function* entries(source: AsyncIterable<Buffer>): AsyncGenerator<Entry> {
  const input = reader(source)
  let pax: Record<string, string> = {}
  let longName: string | null = null
  for (;;) {
    const block = await input.exactly(512)
    if (!block) return
    if (block.every(byte => byte === 0)) return
    check(block)
    const size = pax.size !== undefined ? Number(pax.size) : number(block.subarray(124, 136))
    const type = String.fromCharCode(block[156])
    const padding = (512 - (size % 512)) % 512
    if (type === 'x' || type === 'g' || type === 'L' || type === 'K') {
      if (size > 1024 * 1024) throw new Error('header of an entry is too long')
      const text = await input.exactly(size)
      if (!text) throw new Error('unexpected end of data')
      await input.skip(padding)
      if (type === 'x') pax = records(text)
      else if (type === 'L') longName = text.toString().replace(/\0+$/, '')
      continue
    }
    const prefix = block.toString('latin1', 257, 262) === 'ustar' && block[263] !== 32 ? cut(block.subarray(345, 500)) : ''
    const name = pax.path ?? longName ?? (prefix ? `${prefix}/${cut(block.subarray(0, 100))}` : cut(block.subarray(0, 100)))
    const attributes = Object.fromEntries(
      Object.entries(pax)
        .filter(([key]) => key.startsWith('SCHILY.xattr.'))
        .map(([key, value]) => [key.slice(13), value]),
    )
    let left = size
    yield {
      name,
      size,
      isFile: type === '0' || type === '\0' || type === '7',
      attributes,
      async *data() {
        while (left > 0) {
          const chunk = await input.some(left)
          if (!chunk) throw new Error('unexpected end of data')
          left -= chunk.length
          yield chunk
        }
      },
    }
    await input.skip(left + padding)
    pax = {}
    longName = null
  }
}

function check(block: Buffer): void {
  let sum = 0
  for (let i = 0; i < 512; i++) sum += i >= 148 && i < 156 ? 32 : block[i]
  if (number(block.subarray(148, 156)) !== sum) throw new Error('invalid header')
}

const cut = (bytes: Buffer): string => {
  const end = bytes.indexOf(0)
  return bytes.toString('utf8', 0, end < 0 ? bytes.length : end)
}

function number(bytes: Buffer): number {
  if (bytes[0] & 0x80) return Number(BigInt(`0x${bytes.toString('hex')}`) & ((1n << 63n) - 1n))
  return Number.parseInt(cut(bytes).trim() || '0', 8)
}

function records(text: Buffer): Record<string, string> {
  const out: Record<string, string> = {}
  let at = 0
  while (at < text.length) {
    const space = text.indexOf(32, at)
    const length = Number(text.toString('latin1', at, space))
    if (!length || space < 0) throw new Error('invalid extended header')
    const line = text.toString('utf8', space + 1, at + length - 1)
    const equals = line.indexOf('=')
    out[line.slice(0, equals)] = line.slice(equals + 1)
    at += length
  }
  return out
}

function reader(source: AsyncIterable<Buffer>): {
  exactly(n: number): Promise<Buffer | null>
  some(most: number): Promise<Buffer | null>
  skip(n: number): Promise<void>
} {
  const iterator = source[Symbol.asyncIterator]()
  let held = Buffer.alloc(0) as Buffer
  const more = async (): Promise<boolean> => {
    const next = await iterator.next()
    if (next.done) return false
    held = held.length ? Buffer.concat([held, next.value]) : next.value
    return true
  }
  return {
    async exactly(n) {
      while (held.length < n) if (!(await more())) break
      if (held.length === 0 && n > 0) return null
      if (held.length < n) throw new Error('unexpected end of data')
      const out = held.subarray(0, n)
      held = held.subarray(n)
      return out
    },
    async some(most) {
      if (held.length === 0 && !(await more())) return null
      const out = held.subarray(0, most)
      held = held.subarray(out.length)
      return out
    },
    async skip(n) {
      let left = n
      while (left > 0) {
        if (held.length === 0 && !(await more())) return
        const take = Math.min(left, held.length)
        held = held.subarray(take)
        left -= take
      }
    },
  }
}
