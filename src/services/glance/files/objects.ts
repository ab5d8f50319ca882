/**
 * Files in object storage: segments `FILE/00000001` of the container `NAME_segments`, and once these are all there a static large object
 * `FILE` of the container `NAME` that is made of them. So a file is seen whole or not at all, and may be larger than an object.
 */
import { once } from 'node:events'
import { PassThrough, Readable } from 'node:stream'
import { unavailable } from '#kit/fault.ts'
import type { ObjectStore } from '#services/swift/index.ts'
import type { Part, Place } from './place.ts'

/** A container as a place. `open` is asked at each use: the store may not run in this process, which is no fault until it is needed. */
export function objectPlace(open: () => ObjectStore, container: string, segmentSize: number): Place {
  const segments = `${container}_segments`
  const remove = async (file: string): Promise<void> => {
    const store = open()
    await store.remove(container, file)
    for (;;) {
      const page = await store.list(segments, { prefix: `${file}/`, limit: 1000 })
      for (const { name } of page) await store.remove(segments, name)
      if (page.length === 0) return
    }
  }
  return {
    name: `container ${container}`,
    part: file => partNew(open, { container, segments, file, segmentSize }, () => remove(file)),
    async read(file, range) {
      const found = await open().get(container, file, range && [range.start, range.end + 1])
      if (!found) throw unavailable(`There is no object ${container}/${file}.`)
      return Readable.from(found.body)
    },
    remove,
    async list() {
      const whole = await listed(open(), container)
      const there = new Set(whole.map(({ name }) => name))
      const parts = new Map<string, { size: number; age: number }>()
      for (const { name, size, age } of await listed(open(), segments)) {
        const file = name.slice(0, name.lastIndexOf('/'))
        if (there.has(file)) continue
        const known = parts.get(file)
        parts.set(file, { size: size + (known?.size ?? 0), age: Math.min(age, known?.age ?? age) })
      }
      return [
        ...whole.map(file => ({ ...file, part: false })),
        ...[...parts].map(([name, { size, age }]) => ({ name, size, age, part: true })),
      ]
    },
  }
}

const PAGE = 10_000

async function listed(store: ObjectStore, container: string): Promise<{ name: string; size: number; age: number }[]> {
  const out: { name: string; size: number; age: number }[] = []
  for (let marker: string | undefined; ; marker = out.at(-1)!.name) {
    const page = await store.list(container, { marker, limit: PAGE })
    for (const row of page) out.push({ name: row.name, size: row.bytes, age: Date.now() - Date.parse(`${row.last_modified}Z`) })
    if (page.length < PAGE) return out
  }
}

interface Where {
  container: string
  segments: string
  file: string
  segmentSize: number
}

interface Segment {
  path: string
  size_bytes: number
  pipe: PassThrough
  stored: Promise<{ etag: string }>
  /** Rejects as soon as `stored` does; never resolves. */
  refused: Promise<never>
}

function partNew(open: () => ObjectStore, at: Where, drop: () => Promise<void>): Part {
  const done: { path: string; size_bytes: number; etag: string }[] = []
  let current: Segment | null = null
  const begin = (): Segment => {
    const name = `${at.file}/${String(done.length + 1).padStart(8, '0')}`
    const pipe = new PassThrough({ highWaterMark: 512 * 1024 })
    pipe.on('error', () => {}) // the store hears of it too, and refuses the segment
    const stored = open().put(at.segments, name, pipe, { length: null })
    stored.catch(() => {}) // awaited when the segment ends, or by whoever waits for room
    const refused = new Promise<never>((_, reject) => void stored.catch(reject))
    refused.catch(() => {})
    return { path: `${at.segments}/${name}`, size_bytes: 0, pipe, stored, refused }
  }
  const end = async ({ path, size_bytes, pipe, stored }: Segment): Promise<void> => {
    current = null
    pipe.end()
    done.push({ path, size_bytes, etag: (await stored).etag })
  }
  return {
    async open() {
      await open().ensure(at.container)
      await open().ensure(at.segments)
    },
    async add(chunk) {
      for (let left = chunk; left.length > 0; ) {
        current ??= begin()
        const piece = left.subarray(0, at.segmentSize - current.size_bytes)
        left = left.subarray(piece.length)
        current.size_bytes += piece.length
        if (!current.pipe.write(piece)) await Promise.race([once(current.pipe, 'drain'), current.refused])
        if (current.size_bytes === at.segmentSize) await end(current)
      }
    },
    async finish() {
      if (current) await end(current)
      // a manifest has at least one segment
      if (done.length === 0) await open().put(at.container, at.file, Buffer.alloc(0))
      else await open().put(at.container, at.file, Buffer.from(JSON.stringify(done)), { query: { 'multipart-manifest': 'put' } })
    },
    async drop() {
      const broken = current
      current = null
      broken?.pipe.destroy(new Error('the upload was broken off'))
      await broken?.stored.catch(() => {}) // it fails, since its bytes end early
      await drop()
    },
  }
}
