import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import * as fs from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { after, before, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { Fault } from '../fault.ts'
import { binaries, packageOf } from './binaries.ts'
import type { Db } from './index.ts'
import { open, sql } from './index.ts'
import type { Postgres } from './postgres.ts'
import { keepPostgres, startPostgres } from './postgres.ts'
import { scratch } from './test.ts'

let folder = ''

before(async () => {
  folder = await fs.mkdtemp(join(await scratch(), 'nubo-postgres-'))
  await fs.chmod(folder, 0o755)
})

after(async () => {
  await (await startPostgres({ folder })).stop()
  await fs.rm(folder, { recursive: true })
})

const write = (db: Db, n: number) => db.tx(tx => sql`insert into acknowledged values (${n})`.execute(tx))

async function stored(db: Db): Promise<Set<number>> {
  const { rows } = await sql<{ n: number }>`select n from acknowledged`.execute(db.read)
  return new Set(rows.map(row => row.n))
}

/** The memory of a postmaster and its children, shared pages counted once, in KiB. */
async function atRest(pid: number): Promise<number> {
  const children = (await fs.readFile(`/proc/${pid}/task/${pid}/children`, 'utf8')).split(' ').filter(Boolean)
  assert.ok(children.length > 2)
  const rollups = await Promise.all([pid, ...children].map(p => fs.readFile(`/proc/${p}/smaps_rollup`, 'utf8')))
  return rollups.reduce((sum, text) => sum + Number(/^Pss:\s+(\d+)/m.exec(text)![1]), 0)
}

test('a running postmaster is adopted, its end is told, and starting twice at once gives one', async t => {
  const [one, two] = await Promise.all([startPostgres({ folder }), startPostgres({ folder })])
  assert.equal(one.pid, two.pid)
  assert.deepEqual([one.adopted, two.adopted].sort(), [false, true])
  const ended = Promise.withResolvers<void>()
  const three = await startPostgres({ folder, onExit: ended.resolve })
  assert.equal(three.adopted, true)
  const memory = await atRest(three.pid)
  t.diagnostic(`${Math.round(memory / 1024)} MiB at rest`)
  assert.ok(memory < 60 * 1024, `${memory} KiB`)
  process.kill(three.pid, 'SIGKILL')
  await ended.promise
  const before = performance.now()
  const four = await startPostgres({ folder })
  t.diagnostic(`started after a crash in ${Math.round(performance.now() - before)} ms`)
  assert.equal(four.adopted, false)
  await four.stop()
  await four.stop()
})

test('kill -9 of the postmaster or of a backend loses no acknowledged row', async t => {
  let postgres: Postgres = await startPostgres({ folder })
  assert.equal(postgres.adopted, false)
  const db = open({ url: postgres.url, max: 4 })
  t.after(() => db.close())
  await sql`create table acknowledged (n int primary key)`.execute(db.read)
  const acknowledged: number[] = []
  let n = 0
  for (const victim of ['postmaster', 'backend', 'postmaster', 'everything'] as const) {
    let writing = true
    const enough = Promise.withResolvers<void>()
    const writers = Array.from({ length: 4 }, async () => {
      while (writing) {
        const mine = ++n
        // A write whose commit was not acknowledged may be there or not.
        await write(db, mine).then(
          () => acknowledged.push(mine),
          () => {},
        )
        if (n % 100 === 0) enough.resolve()
      }
    })
    await enough.promise
    const { rows } = await sql<{ pid: number }>`select pid from pg_stat_activity where pid <> pg_backend_pid()`.execute(db.read)
    const pids =
      victim === 'postmaster' ? [postgres.pid] : victim === 'backend' ? [rows[0]!.pid] : [postgres.pid, ...rows.map(r => r.pid)]
    for (const pid of pids) process.kill(pid, 'SIGKILL')
    const started = performance.now()
    postgres = await startPostgres({ folder })
    t.diagnostic(`${victim}: back in ${Math.round(performance.now() - started)} ms`)
    writing = false
    await Promise.all(writers)
    const there = await stored(db)
    assert.deepEqual(
      acknowledged.filter(k => !there.has(k)),
      [],
    )
  }
  assert.ok(acknowledged.length > 200)
})

test('a kept PostgreSQL that is killed comes back, and no read and no unfinished transaction fails', async t => {
  const reports: string[] = []
  const postgres = await keepPostgres({ folder }, error => reports.push(error.message))
  const db = open({ url: postgres.url, max: 6 })
  const first = postgres.pid
  let working = true
  const failures: unknown[] = []
  const loop = async (work: () => Promise<unknown>) => {
    while (working) await work().catch(error => failures.push(error))
  }
  const read = () => sql`select count(*) from acknowledged`.execute(db.read)
  const readInTx = () =>
    db.tx(async tx => {
      await sql`select count(*) from acknowledged`.execute(tx)
      await sql`select pg_sleep(0.01)`.execute(tx)
    })
  const loops = [read, read, read, readInTx, readInTx].map(loop)
  await read()
  process.kill(first, 'SIGKILL')
  while (postgres.pid === first) await delay(10)
  await read()
  working = false
  await Promise.all(loops)
  // Before anything is judged: the tests that follow start it for themselves.
  await db.close()
  await postgres.stop()
  assert.deepEqual(reports, ['PostgreSQL ended; it is started again'])
  // A COMMIT that was not answered is the one thing that cannot be tried again.
  assert.ok(failures.length <= 2, String(failures))
  for (const failure of failures) assert.equal(failure instanceof Fault && failure.kind, 'unavailable')
  t.diagnostic(`${failures.length} commits without an answer`)
  assert.throws(() => process.kill(postgres.pid, 0), /ESRCH/)
})

test('a pid file that names another program does not keep it from starting', async t => {
  const postgres = await startPostgres({ folder })
  const pidFile = join(folder, 'data', 'postmaster.pid')
  const text = await fs.readFile(pidFile, 'utf8')
  await postgres.stop()
  // A program of the same user, as after a reboot.
  const user = process.getuid!() === 0 ? { uid: 65534, gid: 65534 } : {}
  const other = spawn('cat', [], { ...user, cwd: '/', stdio: ['pipe', 'ignore', 'ignore'] })
  t.after(() => other.kill())
  await fs.writeFile(pidFile, text.replace(/^\d+/, String(other.pid)))
  const again = await startPostgres({ folder })
  assert.notEqual(again.pid, other.pid)
})

test('a cluster that cannot start says why, with the log', async () => {
  await (await startPostgres({ folder })).stop()
  await assert.rejects(
    startPostgres({ folder, settings: { shared_buffers: 'lots' } }),
    /did not start in .*invalid value for parameter "shared_buffers"/s,
  )
})

/** The package as npm 11 leaves it: its script has not made the links. */
async function unlinked(t: TestContext, mode: number): Promise<string> {
  const { native } = await packageOf()
  const bare = await fs.mkdtemp(join(tmpdir(), 'nubo-package-'))
  t.after(() => fs.rm(bare, { recursive: true }))
  await fs.cp(native, bare, {
    recursive: true,
    filter: async path => !/\.a$|\/(locale|timezone)$/.test(path) && !(await fs.lstat(path)).isSymbolicLink(),
  })
  await fs.chmod(bare, mode)
  return bare
}

/** Whether the program can be run by the user: it needs all its libraries for that. */
function version(argv0: string, libraries: string | undefined, ids: { uid?: number; gid?: number }): string {
  const env = libraries ? { LD_LIBRARY_PATH: libraries } : {}
  const { stdout, stderr, error } = spawnSync(argv0, ['--version'], { ...ids, env, encoding: 'utf8' })
  return error ? String(error) : stdout + stderr
}

const nobody = process.getuid!() === 0 ? { uid: 65534, gid: 65534 } : {}

test('binaries work without the links that the package lacks', async t => {
  const native = await unlinked(t, 0o755)
  const own = await fs.mkdtemp(join(tmpdir(), 'nubo-postgres-'))
  await fs.chmod(own, 0o755)
  t.after(() => fs.rm(own, { recursive: true }))
  assert.match(version(join(native, 'bin/postgres'), undefined, nobody), /libicu/, 'the premise')
  const { postgres, initdb, libraries } = await binaries(own, nobody, { native, version: '1' })
  assert.match(version(postgres, libraries, nobody), /^postgres \(PostgreSQL\) 18/)
  assert.match(version(initdb, libraries, nobody), /^initdb \(PostgreSQL\) 18/)
})

test('binaries are copied when their user cannot reach them', { skip: process.getuid!() !== 0 && 'needs root' }, async t => {
  const native = await unlinked(t, 0o700)
  const own = await fs.mkdtemp(join(tmpdir(), 'nubo-postgres-'))
  await fs.chmod(own, 0o755)
  t.after(() => fs.rm(own, { recursive: true }))
  assert.match(version(join(native, 'bin/postgres'), undefined, nobody), /EACCES/, 'the premise')
  const { postgres, libraries } = await binaries(own, nobody, { native, version: '1' })
  assert.equal(libraries, undefined)
  assert.match(version(postgres, libraries, nobody), /^postgres \(PostgreSQL\) 18/)
})
