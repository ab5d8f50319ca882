/**
 * Reed-Solomon over GF(2^8): `data` pieces and `parity` more, of which any `data` give back all. The code is systematic (the data pieces
 * are the data) and its parity rows are a Cauchy matrix, of which every square part can be inverted.
 */

const EXP = new Uint8Array(512)
const LOG = new Uint8Array(256)
for (let i = 0, x = 1; i < 255; i++) {
  EXP[i] = x
  EXP[i + 255] = x
  LOG[x] = i
  x <<= 1
  if (x & 0x100) x ^= 0x11d
}
const mul = (a: number, b: number): number => (a && b ? EXP[LOG[a] + LOG[b]] : 0)
const inv = (a: number): number => EXP[255 - LOG[a]]

const tables: (Uint8Array | undefined)[] = []
/** All products of one factor. */
function times(factor: number): Uint8Array {
  let table = tables[factor]
  if (!table) {
    table = Uint8Array.from({ length: 256 }, (_, i) => mul(factor, i))
    tables[factor] = table
  }
  return table
}

/** Row `index` of the code's matrix. */
function row(index: number, data: number): number[] {
  if (index < data) return Array.from({ length: data }, (_, j) => (j === index ? 1 : 0))
  return Array.from({ length: data }, (_, j) => inv(index ^ j))
}

function add(into: Uint8Array, from: Uint8Array, factor: number): void {
  if (factor === 0) return
  if (factor === 1) {
    for (let i = 0; i < from.length; i++) into[i] ^= from[i]
    return
  }
  const table = times(factor)
  for (let i = 0; i < from.length; i++) into[i] ^= table[from[i]]
}

/** Splits a segment into equal data pieces, the last one padded with zeros, and adds the parity pieces. */
export function encode(segment: Buffer, data: number, parity: number): Buffer[] {
  const size = Math.ceil(segment.length / data)
  const pieces: Buffer[] = []
  for (let i = 0; i < data; i++) {
    const part = segment.subarray(i * size, (i + 1) * size)
    pieces.push(part.length === size ? part : Buffer.concat([part, Buffer.alloc(size - part.length)]))
  }
  for (let i = data; i < data + parity; i++) {
    const piece = Buffer.alloc(size)
    for (const [j, factor] of row(i, data).entries()) add(piece, pieces[j], factor)
    pieces.push(piece)
  }
  return pieces
}

/** The inverse of a square matrix. Throws Error when there is none. */
function invert(matrix: number[][]): number[][] {
  const n = matrix.length
  const work = matrix.map((line, i) => [...line, ...Array.from({ length: n }, (_, j) => (i === j ? 1 : 0))])
  for (let column = 0; column < n; column++) {
    const pivot = work.findIndex((line, i) => i >= column && line[column] !== 0)
    if (pivot < 0) throw new Error('these pieces do not determine the data')
    ;[work[column], work[pivot]] = [work[pivot], work[column]]
    const scale = inv(work[column][column])
    work[column] = work[column].map(value => mul(value, scale))
    for (let i = 0; i < n; i++) {
      const factor = work[i][column]
      if (i === column || factor === 0) continue
      work[i] = work[i].map((value, j) => value ^ mul(factor, work[column][j]))
    }
  }
  return work.map(line => line.slice(n))
}

/** The data pieces, from any `data` pieces by index. */
export function decode(pieces: Map<number, Buffer>, data: number): Buffer[] {
  const indices = [...pieces.keys()].slice(0, data)
  if (indices.length < data) throw new Error(`${indices.length} pieces of ${data}`)
  const out: (Buffer | undefined)[] = Array.from({ length: data }, (_, i) => pieces.get(i))
  if (out.every(piece => piece !== undefined)) return out as Buffer[]
  const inverse = invert(indices.map(index => row(index, data)))
  const size = pieces.get(indices[0])!.length
  return out.map((known, i) => {
    if (known) return known
    const piece = Buffer.alloc(size)
    for (const [j, index] of indices.entries()) add(piece, pieces.get(index)!, inverse[i][j])
    return piece
  })
}

/** One piece of any index, from any `data` others. */
export function rebuild(pieces: Map<number, Buffer>, data: number, wanted: number): Buffer {
  const known = pieces.get(wanted)
  if (known) return known
  const whole = decode(pieces, data)
  if (wanted < data) return whole[wanted]
  const piece = Buffer.alloc(whole[0].length)
  for (const [j, factor] of row(wanted, data).entries()) add(piece, whole[j], factor)
  return piece
}
