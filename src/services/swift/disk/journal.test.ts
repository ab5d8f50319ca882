import assert from 'node:assert/strict'
import { readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { recover, type SmallFile, storeAll } from './files.ts'
import { openJournal, records } from './journal.ts'
import { openDisks } from './threads.ts'

const fail = (error: unknown): void => assert.fail(String(error))

async function device(t: TestContext): Promise<string> {
  const root = await mkdtemp(join(tmpdir(), 'swift-journal-'))
  t.after(() => rm(root, { recursive: true, force: true }))
  const path = join(root, 'd')
  await mkdir(path)
  return path
}

const file = (time: string, text: string, more: Partial<SmallFile> = {}): SmallFile => ({
  dir: 'objects/1/abc/hash',
  name: `${time}.data`,
  tmp: 'tmp',
  bytes: Buffer.from(text),
  first: false,
  log: 'objects/1/hashes.invalid',
  changed: 'abc',
  ...more,
})
const read = (path: string, time: string): string => readFileSync(join(path, 'objects/1/abc/hash', `${time}.data`), 'utf8')

test('what was acknowledged and is lost is put back, unless something newer is there', async t => {
  const path = await device(t)
  const journal = openJournal(path, fail)
  assert.deepEqual(storeAll(path, journal, [file('1', 'one')]), ['stored'])
  assert.deepEqual(storeAll(path, journal, [file('2', 'two'), file('1', 'no', { first: true })]), ['beside', 'taken'])
  rmSync(join(path, 'objects'), { recursive: true })
  assert.equal(
    recover(
      path,
      openJournal(path, fail, async () => {}),
    ),
    1,
  )
  assert.equal(read(path, '2'), 'two')
  assert.equal(
    recover(
      path,
      openJournal(path, fail, async () => {}),
    ),
    0,
  )

  rmSync(join(path, 'objects'), { recursive: true })
  await mkdir(join(path, 'objects/1/abc/hash'), { recursive: true })
  writeFileSync(join(path, 'objects/1/abc/hash/3.ts'), '')
  const after = openJournal(path, fail)
  assert.equal(recover(path, after), 0)
  await after.settle()
  assert.deepEqual(readdirSync(join(path, 'journal')), ['spare'])
})

test('a damaged record and those of an earlier use of the file end the reading', async t => {
  const path = await device(t)
  const journal = openJournal(path, fail)
  storeAll(path, journal, [file('1', 'a'.repeat(5000)), file('2', 'b'.repeat(5000))])
  await journal.settle()
  storeAll(path, journal, [file('3', 'c')])
  storeAll(path, journal, [file('4', 'd')])
  const log = readFileSync(join(path, 'journal/1.log'))
  assert.ok(log.length > 10_000, 'the spare is written over')
  assert.deepEqual(
    [...records(log)].map(one => one.bytes.toString()),
    ['c', 'd'],
  )
  log[log.indexOf('4.data')] ^= 1
  assert.equal([...records(log)].length, 1)
  await journal.settle()
})

test('a file that was refused after it was recorded is not put back', async t => {
  const path = await device(t)
  const journal = openJournal(path, fail)
  storeAll(path, journal, [file('1', 'one')])
  const dir = join(path, 'objects/1/abc/hash')
  await mkdir(join(dir, '2.data/in the way'), { recursive: true })
  const [two, three] = storeAll(path, journal, [file('2', 'two'), file('3', 'three', { dir: 'objects/1/abc/other' })])
  assert.equal((two as NodeJS.ErrnoException).code, 'EISDIR')
  assert.equal(three, 'stored')
  rmSync(join(path, 'objects'), { recursive: true })
  const after = openJournal(path, fail)
  assert.equal(recover(path, after), 2)
  assert.deepEqual(readdirSync(dir), ['1.data'])
  await after.settle()
})

test('a change that cannot be noted is none', async t => {
  const path = await device(t)
  const journal = openJournal(path, fail)
  await mkdir(join(path, 'objects/1/hashes.invalid'), { recursive: true })
  const [refused] = storeAll(path, journal, [file('1', 'one')])
  assert.equal((refused as NodeJS.ErrnoException).code, 'EISDIR')
  assert.deepEqual(readdirSync(join(path, 'objects/1/abc/hash')), [])
  assert.equal(recover(path, openJournal(path, fail)), 0)
})

test('a segment whose sync failed goes with the next one', async t => {
  const path = await device(t)
  const heard: unknown[] = []
  let fails = true
  const journal = openJournal(
    path,
    error => heard.push(error),
    async () => {
      if (fails) throw new Error('no sync')
    },
  )
  storeAll(path, journal, [file('1', 'one')])
  await journal.settle()
  assert.deepEqual([heard.length, readdirSync(join(path, 'journal'))], [1, ['1.log']])
  fails = false
  storeAll(path, journal, [file('2', 'two')])
  await journal.settle()
  assert.deepEqual([heard.length, readdirSync(join(path, 'journal'))], [1, ['spare']])
})

test('a disk in the place of another gets a journal of its own', async t => {
  const path = await device(t)
  const journal = openJournal(path, fail)
  storeAll(path, journal, [file('1', 'one')])
  renameSync(path, `${path}.lost`)
  const [refused] = storeAll(path, journal, [file('2', 'two')])
  assert.equal((refused as NodeJS.ErrnoException).code, 'ENOENT')
  await mkdir(path)
  assert.deepEqual(storeAll(path, journal, [file('3', 'three')]), ['stored'])
  assert.equal([...records(readFileSync(join(path, 'journal/1.log')))].length, 1)
  await journal.settle()
})

test('files that wait together share a sync, and changes are noted where a partition was hashed', async t => {
  const path = await device(t)
  const disks = openDisks((_, trouble) => assert.fail(trouble))
  t.after(() => disks.close())
  const disk = { root: join(path, '..'), device: 'd' }
  await mkdir(join(path, 'objects/1'), { recursive: true })
  writeFileSync(join(path, 'objects/1/hashes.invalid'), '')
  const put = (i: number): Promise<string> =>
    disks.store(disk, file(String(i), 'x', { dir: `objects/1/abc/h${i}`, bytes: Buffer.alloc(100_000, i) }))
  assert.deepEqual(new Set(await Promise.all(Array.from({ length: 50 }, (_, i) => put(i)))), new Set(['stored']))
  assert.equal(readFileSync(join(path, 'objects/1/hashes.invalid'), 'utf8'), 'abc\n'.repeat(50))
  const seen = await disks.read(disk, join(path, 'objects/1/abc/h7'), {})
  assert.deepEqual([seen.names, seen.data?.length, seen.data?.[5]], [['7.data'], 100_000, 7])
  await assert.rejects(disks.store({ ...disk, device: 'gone' }, file('1', '', { bytes: Buffer.alloc(1) })), { code: 'ENOENT' })
})
