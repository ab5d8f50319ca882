import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { mkdtemp, readdir, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { programPath } from '#host/programs.ts'
import { qcow2Empty } from '#host/qemu/qcow2.ts'
import { run } from '#host/run.ts'
import { Fault } from '#kit/fault.ts'
import type { ImageRef } from '../../../spec.ts'
import { diskMake } from './disks.ts'
import { baseName, imageCache, qcow2Size } from './images.ts'

const needsImg = programPath('qemu-img') && programPath('prlimit') ? false : 'needs qemu-img and prlimit'

function image(id: string, bytes: Buffer, format: ImageRef['format'] = 'raw'): ImageRef {
  return {
    id,
    format,
    size: bytes.length,
    checksum: { algorithm: 'sha512', hex: createHash('sha512').update(bytes).digest('hex') },
  }
}

/** A cache over images in memory that counts what is fetched. */
async function scene(t: TestContext, bytes: Record<string, Buffer>) {
  const folder = await mkdtemp(join(tmpdir(), 'nubo-images-'))
  t.after(() => rm(folder, { recursive: true, force: true }))
  const fetched: string[] = []
  const gate = { open: Promise.resolve(), stopped: 0 }
  const cache = imageCache({
    folder,
    source: async ({ id }, { signal }) => {
      fetched.push(id)
      signal?.addEventListener('abort', () => gate.stopped++)
      return (async function* () {
        await Promise.race([
          gate.open,
          new Promise((_, reject) => signal?.addEventListener('abort', () => reject(signal.reason))),
        ])
        for (let at = 0; at < bytes[id]!.length; at += 65_536) yield bytes[id]!.subarray(at, at + 65_536)
      })()
    },
  })
  return { folder, cache, fetched, gate }
}

const bad =
  (pattern: RegExp, kind = 'badRequest') =>
  (error: unknown) => {
    assert.ok(error instanceof Fault, String(error))
    assert.equal(error.kind, kind)
    assert.match(error.message, pattern)
    return true
  }

test('an image is fetched once, whole, read-only, with its holes', async t => {
  const disk = Buffer.alloc(1 << 20)
  disk.write('begin', 0)
  disk.write('end', disk.length - 3)
  const { cache, fetched, folder } = await scene(t, { a: disk })
  const base = await cache.get(image('a', disk))
  assert.deepEqual(await readFile(base.path), disk)
  const { mode, blocks } = await stat(base.path)
  assert.equal(mode & 0o777, 0o444)
  assert.ok(blocks * 512 < disk.length / 2, 'zeros take no space')
  assert.deepEqual([base.format, base.virtualSize], ['raw', disk.length])
  assert.deepEqual(await cache.get(image('a', disk)), base)
  assert.deepEqual(fetched, ['a'])
  assert.deepEqual(await readdir(folder), [baseName(image('a', disk))])
})

test('who wants it at the same time shares the download; the last who gives up stops it', async t => {
  const disk = Buffer.from('bytes')
  const { cache, fetched, gate, folder } = await scene(t, { a: disk })
  const gates = Promise.withResolvers<void>()
  gate.open = gates.promise
  const one = new AbortController()
  const second = cache.get(image('a', disk))
  while (fetched.length === 0) await new Promise(resolve => setImmediate(resolve))
  const first = cache.get(image('a', disk), { signal: one.signal })
  one.abort(new Error('not me'))
  await assert.rejects(first, /not me/)
  gates.resolve()
  assert.equal((await second).virtualSize, 5)
  assert.deepEqual(fetched, ['a'])

  gate.open = new Promise(() => undefined)
  const other = image('b', disk)
  const two = new AbortController()
  const alone = cache.get(other, { signal: two.signal })
  while (fetched.length === 1) await new Promise(resolve => setImmediate(resolve))
  two.abort(new Error('enough'))
  await assert.rejects(alone, /enough/)
  assert.equal(gate.stopped, 1)
  while ((await readdir(folder)).length !== 1) await new Promise(resolve => setImmediate(resolve))
})

test('damaged, short and dangerous images are refused and leave nothing', { skip: needsImg }, async t => {
  const qcow2 = qcow2Empty(1 << 30)
  const folder = await mkdtemp(join(tmpdir(), 'nubo-bad-'))
  t.after(() => rm(folder, { recursive: true, force: true }))
  const path = join(folder, 'x')
  await writeFile(join(folder, 'secret'), 'secret')
  const made = async (...args: string[]) => {
    await run(['qemu-img', 'create', '-q', '-f', 'qcow2', ...args, path, '1M'])
    return readFile(path)
  }
  const backed = await made('-b', join(folder, 'secret'), '-F', 'raw')
  const split = await made('-o', `data_file=${join(folder, 'data')}`)
  const huge = Buffer.from(qcow2)
  huge.writeBigUInt64BE(2n ** 60n, 24)
  const { cache, folder: kept } = await scene(t, { a: qcow2, backed, split, huge, text: Buffer.from('hello') })
  await assert.rejects(
    cache.get({ ...image('a', qcow2), checksum: { algorithm: 'md5', hex: '00' } }),
    bad(/arrived damaged: its md5 is/),
  )
  await assert.rejects(cache.get({ ...image('a', qcow2), size: 7, checksum: undefined }), bad(/has 7 bytes, but 262144 arrived/))
  await assert.rejects(cache.get(image('backed', backed, 'qcow2')), bad(/backing file/))
  await assert.rejects(cache.get(image('split', split, 'qcow2')), bad(/another file/))
  await assert.rejects(cache.get(image('huge', huge, 'qcow2')), bad(/virtual size|not a readable/))
  await assert.rejects(cache.get(image('text', Buffer.from('hello'), 'qcow2')), bad(/not a readable qcow2/))
  await assert.rejects(cache.get({ ...image('a', qcow2), id: '../a' }), bad(/not the id of an image/))
  await assert.rejects(cache.get({ ...image('a', qcow2), size: 2 ** 60 }), bad(/No space/, 'unavailable'))
  assert.deepEqual(await readdir(kept), [])
})

test('other formats are kept as qcow2', { skip: needsImg }, async t => {
  const folder = await mkdtemp(join(tmpdir(), 'nubo-vdi-'))
  t.after(() => rm(folder, { recursive: true, force: true }))
  await run(['qemu-img', 'create', '-q', '-f', 'vdi', join(folder, 'x'), '3M'])
  await run(['qemu-img', 'create', '-q', '-f', 'vmdk', '-o', 'subformat=monolithicFlat', join(folder, 'y'), '3M'])
  const [vdi, vmdk] = await Promise.all([readFile(join(folder, 'x')), readFile(join(folder, 'y'))])
  const { cache } = await scene(t, { vdi, vmdk })
  const base = await cache.get(image('vdi', vdi, 'vdi'))
  assert.equal(base.format, 'qcow2')
  assert.equal(base.virtualSize, 3 << 20)
  assert.equal(qcow2Size((await readFile(base.path)).subarray(0, 32)), 3 << 20)
  await assert.rejects(cache.get(image('vmdk', vmdk, 'vmdk')), bad(/unacceptable/))
})

test('what is unused for long goes; what interrupted downloads left goes', async t => {
  const disk = Buffer.from('x')
  const { cache, folder } = await scene(t, { a: disk, b: disk, c: disk })
  const [a, b, c] = [image('a', disk), image('b', disk), image('c', disk)]
  for (const one of [a, b, c]) {
    const { path } = await cache.get(one)
    if (one !== c) await utimes(path, 1, 1)
  }
  assert.equal(await cache.age(3600, [b]), 1)
  assert.deepEqual((await readdir(folder)).sort(), [baseName(b), baseName(c)].sort())
  await writeFile(join(folder, '.part-x'), '')
  await cache.clean()
  assert.equal((await readdir(folder)).length, 2)
})

test('a disk that comes from another host is made of its bytes, and stands alone', { skip: needsImg }, async t => {
  const { folder, cache } = await scene(t, { 'move-1-root': qcow2Empty(4 << 20) })
  const uid = process.getuid!()
  const disk = {
    kind: 'image' as const,
    name: 'root',
    bus: 'virtio' as const,
    sizeGb: 1,
    image: image('gone', Buffer.alloc(1)),
    content: { id: 'move-1-root', format: 'qcow2' as const },
  }
  const made = await diskMake({ folder, uid, images: cache }, disk)
  assert.equal(made.type, 'file')
  const { stdout } = await run(['qemu-img', 'info', '--output=json', join(folder, 'root.qcow2')])
  const info = JSON.parse(stdout) as Record<string, unknown>
  assert.equal(info['virtual-size'], 4 << 20)
  assert.equal(info['backing-filename'], undefined)
})
