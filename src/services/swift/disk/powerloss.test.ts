/**
 * Power loss between any two system calls of a write. Every call that changes the disk is recorded in order; then, for the moment after each,
 * every disk is built that a file system may show after the power came back: what was synced is there, of everything else any part. The old
 * object or the new one must be read from each of them, and the new one once the write was acknowledged.
 */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import plainFs from 'node:fs'
import fs, { mkdir, mkdtemp, open, rm, writeFile } from 'node:fs/promises'
import { syncBuiltinESMExports } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { openLog } from '#kit/log.ts'
import { LIMITS } from '../constraints.ts'
import { type Headers, once, ownEnv, type Req, readAll, refuse } from '../http/message.ts'
import { objectServer } from '../object/server.ts'
import { readSmall, recover, storeAll } from './files.ts'
import { openJournal } from './journal.ts'
import { type Disks, SMALL } from './threads.ts'

/** A change of the disk: of an entry in a folder, or of a file's bytes. */
type Step =
  | { kind: 'entry'; dir: string; name: string; is: Inode | 'folder' | null }
  | { kind: 'write'; inode: Inode; bytes: Buffer; at?: number }
  | { kind: 'cut'; inode: Inode; size: number }
  | { kind: 'syncFile'; inode: Inode }
  | { kind: 'syncDir'; dir: string }
interface Inode {
  id: number
}

/** Records what `work` does to the disk. */
async function recorded(work: () => Promise<void>): Promise<Step[]> {
  const steps: Step[] = []
  const files = new WeakMap<object, Inode | string>()
  const inodes = new Map<string, Inode>()
  let id = 0
  const entry = (path: string, is: Inode | 'folder' | null): void =>
    void steps.push({ kind: 'entry', dir: dirname(path), name: path, is })
  const plain = { open: fs.open, mkdir: fs.mkdir, rename: fs.rename, unlink: fs.unlink, rmdir: fs.rmdir, rm: fs.rm }
  const probe = await open('/dev/null', 'r')
  const handles = Object.getPrototypeOf(probe) as Record<string, (...args: unknown[]) => Promise<unknown>>
  await probe.close()
  const ofHandle = {
    writev: handles.writev,
    write: handles.write,
    writeFile: handles.writeFile,
    datasync: handles.datasync,
    sync: handles.sync,
  }
  const change = (inode: Inode | string | undefined, bytes: Buffer): void => {
    if (typeof inode === 'object') steps.push({ kind: 'write', inode, bytes })
  }
  Object.assign(handles, {
    async writev(this: object, buffers: Buffer[]) {
      const result = await ofHandle.writev.call(this, buffers)
      change(files.get(this), Buffer.concat(buffers))
      return result
    },
    async writeFile(this: object, data: Buffer | string) {
      const result = await ofHandle.writeFile.call(this, data)
      change(files.get(this), Buffer.from(data))
      return result
    },
    async datasync(this: object) {
      await ofHandle.datasync.call(this)
      const inode = files.get(this)
      if (typeof inode === 'object') steps.push({ kind: 'syncFile', inode })
    },
    async sync(this: object) {
      await ofHandle.sync.call(this)
      const what = files.get(this)
      if (typeof what === 'string') steps.push({ kind: 'syncDir', dir: what })
      else if (what) steps.push({ kind: 'syncFile', inode: what })
    },
  })
  Object.assign(fs, {
    async open(path: string, flags: string) {
      const handle = await plain.open(path, flags)
      if (flags === 'wx') {
        const inode = { id: ++id }
        inodes.set(path, inode)
        files.set(handle, inode)
        entry(path, inode)
      } else files.set(handle, path)
      return handle
    },
    async mkdir(path: string, options?: object) {
      const result = await plain.mkdir(path, options)
      entry(path, 'folder')
      return result
    },
    async rename(from: string, to: string) {
      await plain.rename(from, to)
      entry(to, inodes.get(from) ?? 'folder')
      inodes.set(to, inodes.get(from)!)
      entry(from, null)
    },
    async unlink(path: string) {
      await plain.unlink(path)
      entry(path, null)
    },
    async rmdir(path: string) {
      await plain.rmdir(path)
      entry(path, null)
    },
    async rm(path: string, options: object) {
      const there = inodes.has(path)
      await plain.rm(path, options)
      if (there) entry(path, null)
    },
  })
  const stop = recordSync(steps, entry, inodes, () => ({ id: ++id }))
  syncBuiltinESMExports()
  try {
    await work()
  } finally {
    Object.assign(fs, plain)
    stop()
    Object.assign(handles, ofHandle)
    syncBuiltinESMExports()
  }
  return steps
}

/** The same for the calls of a device's thread. */
function recordSync(
  steps: Step[],
  entry: (path: string, is: Inode | 'folder' | null) => void,
  inodes: Map<string, Inode>,
  made: () => Inode,
): () => void {
  const { openSync, closeSync, mkdirSync, writeSync, writevSync, ftruncateSync, fdatasyncSync, fsyncSync } = plainFs
  const { renameSync, unlinkSync, rmSync } = plainFs
  const plain = {
    openSync,
    closeSync,
    mkdirSync,
    writeSync,
    writevSync,
    ftruncateSync,
    fdatasyncSync,
    fsyncSync,
    renameSync,
    unlinkSync,
    rmSync,
  }
  const open = new Map<number, Inode | string>()
  const wrote = (fd: number, bytes: Buffer, at?: number): void => {
    const inode = open.get(fd)
    if (typeof inode === 'object') steps.push({ kind: 'write', inode, bytes, at })
  }
  const synced = (fd: number): void => {
    const what = open.get(fd)
    if (typeof what === 'string') steps.push({ kind: 'syncDir', dir: what })
    else if (what) steps.push({ kind: 'syncFile', inode: what })
  }
  Object.assign(plainFs, {
    openSync(path: string, flags: string) {
      const fd = plain.openSync(path, flags)
      if (flags === 'wx') {
        inodes.set(path, made())
        entry(path, inodes.get(path)!)
      }
      open.set(fd, inodes.get(path) ?? path)
      return fd
    },
    closeSync(fd: number) {
      plain.closeSync(fd)
      open.delete(fd)
    },
    mkdirSync(path: string) {
      plain.mkdirSync(path)
      entry(path, 'folder')
    },
    writeSync(fd: number, bytes: Uint8Array, offset: number) {
      const written = plain.writeSync(fd, bytes, offset)
      wrote(fd, Buffer.from(bytes.subarray(offset, offset + written)))
      return written
    },
    writevSync(fd: number, pieces: Uint8Array[], position: number) {
      const written = plain.writevSync(fd, pieces, position)
      wrote(fd, Buffer.concat(pieces).subarray(0, written), position)
      return written
    },
    ftruncateSync(fd: number, size: number) {
      plain.ftruncateSync(fd, size)
      const inode = open.get(fd)
      if (typeof inode === 'object') steps.push({ kind: 'cut', inode, size })
    },
    fdatasyncSync(fd: number) {
      plain.fdatasyncSync(fd)
      synced(fd)
    },
    fsyncSync(fd: number) {
      plain.fsyncSync(fd)
      synced(fd)
    },
    renameSync(from: string, to: string) {
      plain.renameSync(from, to)
      if (!inodes.has(from)) {
        // from before the recording: its bytes are safe
        const inode = made()
        inodes.set(from, inode)
        steps.push({ kind: 'write', inode, bytes: plainFs.readFileSync(to) }, { kind: 'syncFile', inode })
      }
      entry(to, inodes.get(from)!)
      inodes.set(to, inodes.get(from)!)
      entry(from, null)
    },
    unlinkSync(path: string) {
      plain.unlinkSync(path)
      entry(path, null)
    },
    rmSync(path: string, options: object) {
      const there = inodes.has(path)
      plain.rmSync(path, options)
      if (there) entry(path, null)
    },
  })
  return () => void Object.assign(plainFs, plain)
}

/** Every disk that may be found after the steps up to `at`: paths with their bytes, null for a folder. `before`: what was safe from the start. */
function* disks(before: Map<string, Buffer | null>, steps: Step[], at: number): Generator<Map<string, Buffer | null>> {
  const pending: (Step & { kind: 'entry' })[] = []
  const safe: (Step & { kind: 'entry' })[] = []
  const written = new Map<Inode, { bytes: Buffer; safe: Buffer }>()
  for (const step of steps.slice(0, at)) {
    if (step.kind === 'entry') pending.push(step)
    else if (step.kind === 'syncDir') {
      for (const one of pending.filter(known => known.dir === step.dir)) safe.push(...pending.splice(pending.indexOf(one), 1))
    } else {
      const file = written.get(step.inode) ?? { bytes: Buffer.alloc(0), safe: Buffer.alloc(0) }
      if (step.kind === 'write') {
        const at = step.at ?? file.bytes.length
        const after = file.bytes.subarray(at + step.bytes.length)
        file.bytes = Buffer.concat([file.bytes.subarray(0, at), step.bytes, after])
      } else if (step.kind === 'cut') file.bytes = file.bytes.subarray(0, step.size)
      else file.safe = file.bytes
      written.set(step.inode, file)
    }
  }
  for (let chosen = 0; chosen < 2 ** pending.length; chosen++) {
    for (const tail of ['lost', 'zeros', 'torn', 'written'] as const) {
      const disk = new Map(before)
      const bytesOf = (inode: Inode): Buffer => {
        const { bytes, safe } = written.get(inode) ?? { bytes: Buffer.alloc(0), safe: Buffer.alloc(0) }
        if (tail === 'lost') return safe
        if (tail === 'zeros') return Buffer.concat([safe, Buffer.alloc(Math.max(bytes.length - safe.length, 0))])
        const half = bytes.length >> 1
        return tail === 'written' ? bytes : Buffer.concat([bytes.subarray(0, half), safe.subarray(half)])
      }
      const applied = [...safe, ...pending.filter((_, i) => chosen & (1 << i))]
      applied.sort((a, b) => steps.indexOf(a) - steps.indexOf(b))
      for (const { name, is } of applied) {
        if (is === null) disk.delete(name)
        else disk.set(name, is === 'folder' ? null : bytesOf(is))
      }
      yield disk
    }
  }
}

const NAMES = '/d/1/AUTH_a/c/o'

/** The device's thread, in this one. `settle` makes its journal begin anew. */
function diskHere(root: string): Disks & { settle(): Promise<void> } {
  const device = join(root, 'd')
  const journal = openJournal(
    device,
    error => assert.fail(String(error)),
    async () => {},
  )
  return {
    read: async (_disk, dir, options) => readSmall(dir, options, SMALL),
    async store(_disk, file) {
      const [outcome] = storeAll(device, journal, [file])
      if (outcome instanceof Error) throw outcome
      return outcome
    },
    recover: async () => recover(device, journal),
    close: async () => {},
    settle: () => journal.settle(),
  }
}

function setUp(
  root: string,
  disks: Disks,
): (method: string, time: string, body: Buffer | null, headers?: Headers) => Promise<{ status: number; body: string }> {
  const app = objectServer({
    root,
    disks,
    secrets: { prefix: 'p', suffix: 's' },
    dial: async () => refuse(201),
    limits: LIMITS,
    log: openLog({ level: 'fatal' }),
    reserve: 0,
    updateTimeout: 1,
    expirerDivisor: 86400,
    reclaimAge: 604800,
    mountCheck: false,
  })
  return async (method, time, body, headers = {}) => {
    const req: Req = {
      method,
      path: NAMES,
      rawPath: NAMES,
      query: new Map(),
      headers: { 'x-timestamp': time, 'content-type': 'text/plain', ...headers },
      body: body && once(body),
      length: body?.length ?? 0,
      env: ownEnv('test'),
    }
    const res = await app(req)
    const bytes = await readAll(res.body)
    return {
      status: res.status,
      body:
        method === 'GET' && res.status === 200
          ? `${bytes.length} ${createHash('md5').update(bytes).digest('hex')} ${res.headers['x-object-meta-a'] ?? ''}`
          : '',
    }
  }
}

/** What is below a folder, as a disk that was synced. */
async function snapshot(root: string): Promise<Map<string, Buffer | null>> {
  const disk = new Map<string, Buffer | null>()
  for (const entry of await fs.readdir(root, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name)
    disk.set(path, entry.isFile() ? await fs.readFile(path) : null)
  }
  return disk
}

async function losePower(
  t: TestContext,
  old: Buffer | null,
  act: (ask: ReturnType<typeof setUp>) => Promise<{ status: number }>,
  /** What is refused may be found until the refusal, and never after it. */
  refused?: { body: string },
): Promise<void> {
  const root = await mkdtemp(join(tmpdir(), 'swift-power-'))
  t.after(() => rm(root, { recursive: true, force: true }))
  await mkdir(join(root, 'd'))
  const thread = diskHere(root)
  const ask = setUp(root, thread)
  if (old) assert.equal((await ask('PUT', '1700000000.00000', old, { 'x-object-meta-a': 'old' })).status, 201)
  await thread.settle()
  const before = await snapshot(root)
  const was = await ask('GET', '1700000009.00000', null)
  const steps = await recorded(async () => assert.equal((await act(ask)).status < 300, !refused))
  const is = await ask('GET', '1700000009.00000', null)
  if (refused) assert.deepEqual(was, is)
  else assert.notDeepEqual(was, is)
  const seen = new Set<string>()
  let tried = 0
  for (let at = 0; at <= steps.length; at++) {
    for (const disk of disks(before, steps, at)) {
      const print = JSON.stringify(
        [...disk].map(([path, bytes]) => [path, bytes && createHash('md5').update(bytes).digest('hex')]),
      )
      const key = `${at === steps.length} ${print}`
      if (seen.has(key)) continue
      seen.add(key)
      tried += 1
      const place = join(root, `crash${tried}`)
      await mkdir(join(place, 'd'), { recursive: true })
      for (const [path, bytes] of disk) {
        const target = join(place, path.slice(root.length))
        // an entry below a folder that was lost is lost with it
        if (!disk.has(dirname(path)) && dirname(path) !== root && dirname(path) !== join(root, 'd')) continue
        if (bytes === null) await mkdir(target, { recursive: true })
        else await writeFile(target, bytes).catch(error => (error.code === 'ENOENT' ? undefined : Promise.reject(error)))
      }
      const after = diskHere(place)
      await after.recover({ root: place, device: 'd' })
      await after.settle()
      const found = await setUp(place, after)('GET', '1700000009.00000', null)
      const allowed = at === steps.length ? [is] : [was, is, ...(refused ? [{ status: 200, ...refused }] : [])]
      assert.ok(
        allowed.some(one => one.status === found.status && one.body === found.body),
        `after step ${at} of ${steps.length}, ${JSON.stringify(steps[at - 1])}: found ${JSON.stringify(found)}, may be ${JSON.stringify(allowed)}`,
      )
      await rm(place, { recursive: true })
    }
  }
  assert.ok(tried > steps.length, `${tried} disks after ${steps.length} steps`)
}

const small = Buffer.from('small')
const large = Buffer.alloc(300_000, 'large')

test('PUT of a new object', t => losePower(t, null, ask => ask('PUT', '1700000001.00000', small)))
test('PUT of a large object in place of another', t => losePower(t, small, ask => ask('PUT', '1700000001.00000', large)))
test('POST', t => losePower(t, small, ask => ask('POST', '1700000001.00000', null, { 'x-object-meta-a': 'new' })))
test('DELETE', t => losePower(t, small, ask => ask('DELETE', '1700000001.00000', null)))

const asGot = { body: `${small.length} ${createHash('md5').update(small).digest('hex')} ` }

/** While `work` runs, the call fails once: where it is first made on what `matches`. */
async function failing<T>(
  call: 'renameSync' | 'fdatasyncSync',
  matches: (first: unknown, second: unknown) => boolean,
  work: () => Promise<T>,
): Promise<T> {
  const plain = plainFs[call] as (...args: unknown[]) => void
  let isOver = false
  const put = (fn: unknown): void => {
    Object.assign(plainFs, { [call]: fn })
    syncBuiltinESMExports()
  }
  put((...args: [unknown, unknown]) => {
    if (isOver || !matches(...args)) return plain(...args)
    isOver = true
    throw Object.assign(new Error('no space'), { code: 'ENOSPC' })
  })
  try {
    return await work()
  } finally {
    put(plain)
    assert.ok(isOver)
  }
}

test('PUT that is refused after it was recorded', async t => {
  for (const old of [null, large])
    await losePower(
      t,
      old,
      ask =>
        failing(
          'renameSync',
          (_, to) => String(to).endsWith('.data'),
          () => ask('PUT', '1700000001.00000', small),
        ),
      asGot,
    )
})
test('PUT whose record was written but not synced', t =>
  losePower(
    t,
    large,
    ask =>
      failing(
        'fdatasyncSync',
        () => true,
        () => ask('PUT', '1700000001.00000', small),
      ),
    asGot,
  ))
