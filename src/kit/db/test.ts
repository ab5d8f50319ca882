/**
 * Databases for tests. One PostgreSQL of the machine, started by the first test that needs it, is shared by all test processes of
 * this user; a watchdog stops it some time after the last has gone. Each test gets a database of its own, cloned from a template
 * that has the migrations applied, and dropped after the test. Durability is off: everything else is as in production.
 */
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import * as fs from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import type { TestContext } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import pg from 'pg'
import { kitMigrations } from '../migrations.ts'
import type { Db, MigrationSet, OpenOptions } from './index.ts'
import { migrate, open } from './index.ts'
import { startPostgres } from './postgres.ts'

/** `pg.Client` has these, its types do not. */
type Refs = { ref(): void; unref(): void }

interface Server {
  url(database: string): string
  admin: pg.Client
}

let server: Promise<Server> | undefined
let made = 0

/** Where tests keep databases: in memory if there is room. One is 300 files, whose making on a busy disk takes ten times as long. */
export async function scratch(): Promise<string> {
  const memory = await fs.statfs('/dev/shm').catch(() => undefined)
  if (!memory || memory.bavail * memory.bsize < 1 << 30) return tmpdir()
  const writable = await fs.access('/dev/shm', fs.constants.W_OK).then(
    () => true,
    () => false,
  )
  return writable ? '/dev/shm' : tmpdir()
}

/** Ends the server some time after its last client has gone. */
function startWatchdog(at: string, pid: number): void {
  const script = join(import.meta.dirname, 'testwatch.ts')
  spawn(process.execPath, [script, at, String(pid)], { detached: true, stdio: 'ignore', cwd: '/' }).unref()
}

/** Drops what killed test processes left: the number in a database's name is its process. */
async function sweep(admin: pg.Client): Promise<void> {
  const { rows } = await admin.query<{ name: string }>("select datname as name from pg_database where datname like 'test\\_%'")
  for (const { name } of rows) {
    const alive = await fs.access(`/proc/${name.split('_')[1]}`).then(
      () => true,
      () => false,
    )
    if (!alive) await admin.query(`drop database if exists ${name} with (force)`)
  }
}

/** Connects to the shared server, starting it if need be; while this connection lasts, the watchdog lets it be. */
async function connect(): Promise<Server> {
  const at = join(await scratch(), `nubo-test-pg-${process.getuid!()}`)
  for (let attempt = 1; ; attempt++) {
    const postgres = await startPostgres({
      folder: at,
      volatile: true,
      settings: { max_connections: '300', max_wal_size: '96MB' },
    })
    postgres.detach()
    const admin = new pg.Client({ connectionString: postgres.url, application_name: `test ${process.pid}` })
    try {
      await admin.connect()
      admin.on('error', error => {
        throw error
      })
      if (!postgres.adopted) startWatchdog(at, postgres.pid)
      await sweep(admin)
      ;(admin as pg.Client & Refs).unref()
      return { admin, url: database => postgres.url.replace('/postgres?', `/${database}?`) }
    } catch (error) {
      // It was being stopped by its watchdog just now.
      if (attempt >= 5) throw error
      await delay(50 * attempt)
    }
  }
}

/** Runs on the shared connection, which keeps the process alive only meanwhile. */
async function asAdmin<T>({ admin }: Server, fn: (admin: pg.Client) => Promise<T>): Promise<T> {
  const client = admin as pg.Client & Refs
  client.ref()
  try {
    return await fn(admin)
  } finally {
    client.unref()
  }
}

/** The text of every migration in the source: a template is never used after one of them changed. */
async function sources(): Promise<string> {
  const root = resolve(import.meta.dirname, '../..')
  const hash = createHash('sha256')
  for (const path of (await fs.readdir(root, { recursive: true })).sort()) {
    if (!/(^|\/)(migrations?\/[^/]+|migrations?|tables)\.ts$/.test(path)) continue
    hash.update(path).update(await fs.readFile(join(root, path)))
  }
  return hash.digest('hex')
}

let sourcesHash: Promise<string> | undefined
const templates = new Map<string, Promise<void>>()

async function templateName(sets: MigrationSet[]): Promise<string> {
  sourcesHash ??= sources()
  const hash = createHash('sha256').update(await sourcesHash)
  for (const { schema, migrations } of sets) for (const m of migrations) hash.update(`${schema}/${m.name}${m.up}${m.down}`)
  return `template_${hash.digest('hex').slice(0, 24)}`
}

/** Makes the template of these migrations unless it is there; under a lock, so that one process does and the others wait. */
async function makeTemplate(at: Server, template: string, sets: MigrationSet[]): Promise<void> {
  await asAdmin(at, async admin => {
    await admin.query('select pg_advisory_lock(hashtextextended($1, 0))', [template])
    try {
      if ((await admin.query('select 1 from pg_database where datname = $1', [template])).rowCount) return
      const draft = `draft_${template}`
      await admin.query(`drop database if exists ${draft} with (force)`)
      await admin.query(`create database ${draft} template template0`)
      const db = open({ url: at.url(draft), max: 2 })
      try {
        await migrate(db, sets)
      } finally {
        await db.close()
      }
      await admin.query(`alter database ${draft} rename to ${template}`)
    } finally {
      await admin.query('select pg_advisory_unlock(hashtextextended($1, 0))', [template])
    }
  })
}

/** A fresh database with the migrations applied: its URL, and how to drop it. For tests that need more than `testDb` gives. */
export async function testDatabase(sets: MigrationSet[]): Promise<{ url: string; drop: () => Promise<void> }> {
  server ??= connect()
  const at = await server
  const all = [kitMigrations, ...sets.filter(set => set.schema !== kitMigrations.schema)]
  const template = await templateName(all)
  let making = templates.get(template)
  if (!making) {
    making = makeTemplate(at, template, all)
    templates.set(template, making)
  }
  await making
  const name = `test_${process.pid}_${++made}`
  await asAdmin(at, async admin => {
    await admin.query(`drop database if exists ${name} with (force)`)
    await admin.query(`create database ${name} template ${template} strategy file_copy`)
  })
  return {
    url: at.url(name),
    drop: () => asAdmin(at, async admin => void (await admin.query(`drop database ${name} with (force)`))),
  }
}

/**
 * A database of the test's own with the kit's and these migrations applied; closed and dropped when the test ends.
 * Give it to `before`'s or a suite's context to share it among tests.
 */
export async function testDb(
  t: Pick<TestContext, 'after'>,
  sets: MigrationSet[] = [],
  options: Partial<OpenOptions> = {},
): Promise<Db> {
  const { url, drop } = await testDatabase(sets)
  const db = open({ max: 5, ...options, url })
  t.after(async () => {
    await db.close()
    await drop()
  })
  return db
}
