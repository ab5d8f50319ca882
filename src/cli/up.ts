/** `nubo up`: a whole cloud on this machine. */
import { spawn } from 'node:child_process'
import { closeSync, existsSync, openSync, readFileSync, statfsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { defaultDataDir, loadConfig, nuboSettings } from '#kit/config.ts'
import { reason } from '#kit/fault.ts'
import { openLog, type RootLog } from '#kit/log.ts'
import { sections } from '../roles/controlled.ts'
import { passwordsOf } from './instance/clouds.ts'
import { firstImages } from './instance/images.ts'
import { dataEnsure, type Layout, layoutOf } from './instance/layout.ts'
import { lockTake } from './instance/lock.ts'
import { portTrouble } from './instance/port.ts'
import { stateRunning } from './instance/state.ts'
import { type Instance, supervise, type UpOptions } from './instance/supervise.ts'
import { ownerEnsure } from './instance/user.ts'
import { installPrograms } from './packages.ts'
import { UsageError } from './usage.ts'

const HELP = `Usage: nubo up [OPTION...]

Starts a cloud on this machine and prints how to use it. Run it again after 'nubo down', a crash or a reboot:
it finds what is there.

  --data DIR            folder of everything that is kept (/var/lib/nubo for root, else ~/.local/share/nubo)
  --listen ADDR:PORT    where all APIs are served (127.0.0.1:5000); anything but loopback is served by TLS
  --simulate[=HOSTS]    pretended hosts instead of this machine; needs no root
  --detach              return when every API answers, and run on
  --record FILE         write every exchange to FILE, one HAR entry a line
  --database-url URL    use this PostgreSQL instead of an own one
`

const say = (line: string): void => void process.stderr.write(`nubo up: ${line}\n`)

interface Asked {
  options: Omit<UpOptions, 'owner' | 'lock'>
  detach: boolean
  /** Set in the process that `--detach` left behind. */
  detached: boolean
}

/** @throws UsageError for what cannot be meant. */
function ask(argv: string[]): Asked | undefined {
  // node:util has no options whose value may be left out.
  const args = argv.map(arg => (arg === '--simulate' ? '--simulate=1' : arg))
  const { values } = parseArgs({
    args,
    options: {
      data: { type: 'string' },
      listen: { type: 'string' },
      simulate: { type: 'string' },
      detach: { type: 'boolean', default: false },
      detached: { type: 'boolean', default: false },
      record: { type: 'string' },
      'database-url': { type: 'string' },
      help: { type: 'boolean', short: 'h' },
    },
  })
  if (values.help) {
    process.stdout.write(HELP)
    return undefined
  }
  const simulated = Number(values.simulate ?? 0)
  if (!Number.isInteger(simulated) || simulated < 0 || simulated > 20_000 || (values.simulate !== undefined && simulated === 0)) {
    throw new UsageError(`--simulate takes a number of hosts from 1 to 20000, not '${values.simulate}'`)
  }
  const layout = layoutOf(resolve(values.data ?? defaultDataDir()))
  const config = loadConfig(layout.config, sections(), {
    nubo: { data: layout.data, listen: values.listen, database_url: values['database-url'] },
  }).of(nuboSettings)
  const colon = config.listen.lastIndexOf(':')
  return {
    options: {
      layout,
      at: { host: config.listen.slice(0, colon).replace(/^\[|\]$/g, ''), port: Number(config.listen.slice(colon + 1)) },
      simulated,
      record: values.record && resolve(values.record),
      databaseUrl: config.database_url,
      region: 'RegionOne',
      logLevel: config.log_level,
      logFile: config.log_file ?? (values.detached ? layout.log : undefined),
    },
    detach: values.detach,
    detached: values.detached,
  }
}

export async function run(argv: string[]): Promise<number> {
  const asked = ask(argv)
  if (!asked) return 0
  const { options, detach, detached } = asked
  if (process.getuid?.() !== 0 && options.simulated === 0) {
    throw new UsageError('real servers need root. Without root, pretend: nubo up --simulate')
  }
  const running = stateRunning(options.layout)
  if (running) {
    say(`already running (process ${running.pid})`)
    tell(running.url, options.layout.clouds)
    return 0
  }
  if (detach) return leaveBehind(argv, options)
  return serve(options, detached)
}

/** Starts the same command as a process of its own and waits until it says that it is ready. */
async function leaveBehind(argv: string[], { layout }: Asked['options']): Promise<number> {
  folderMake(layout)
  const log = openSync(layout.log, 'a', 0o640)
  const child = spawn(
    process.execPath,
    [...process.execArgv, join(import.meta.dirname, '../main.ts'), 'up', ...argv.filter(a => a !== '--detach'), '--detached'],
    { detached: true, stdio: ['ignore', log, log, 'ipc'] },
  )
  closeSync(log)
  const outcome = await new Promise<{ ready?: string; failed?: string }>(done => {
    child.on('message', message => {
      const said = message as { say?: string; ready?: string; failed?: string }
      if (said.say) say(said.say)
      else done(said)
    })
    child.once('exit', code => done({ failed: `it ended with code ${code}; the end of ${layout.log}:\n${tail(layout.log)}` }))
  })
  if (outcome.failed !== undefined) throw new Error(outcome.failed)
  child.disconnect()
  child.unref()
  tell(outcome.ready!, layout.clouds)
  return 0
}

const tail = (file: string): string => readFileSync(file, 'utf8').trimEnd().split('\n').slice(-15).join('\n')

/** Least room for a new database, and for going on with one, in MiB. */
const ROOM_NEW = 300
const ROOM = 48

/** Makes the data folder. Throws when it cannot be used, or has no room. */
function folderMake(layout: Layout): void {
  try {
    dataEnsure(layout)
  } catch (error) {
    throw new Error(`the data folder ${layout.data} cannot be used: ${reason(error)}`, { cause: error })
  }
  const { bavail, bsize } = statfsSync(layout.data)
  const room = Math.floor((bavail * bsize) / 2 ** 20)
  const least = existsSync(layout.postgres) ? ROOM : ROOM_NEW
  if (room < least) throw new Error(`${layout.data} is on a disk with ${room} MiB left; at least ${least} are needed`)
}

/** Tells the process that `--detach` was called in, if it still listens. */
function sendUp(message: { say?: string; ready?: string; failed?: string }): Promise<void> {
  return new Promise(sent => (process.connected ? process.send!(message, () => sent()) : sent()))
}

/** Starts an instance here and runs it until a signal. */
async function serve(options: Asked['options'], detached: boolean): Promise<number> {
  const { layout } = options
  const progress = detached ? (line: string) => void sendUp({ say: line }) : say
  const ready = async (url: string): Promise<void> => (detached ? sendUp({ ready: url }) : tell(url, layout.clouds))
  const ended = new Promise<string>(end => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => end(signal))
  })
  let log: RootLog | undefined
  try {
    folderMake(layout)
    const lock = await lockTake(layout, {
      onHeld: pid => progress(`waiting for another nubo on ${layout.data}${pid ? ` (process ${pid})` : ''}`),
      enough: () => stateRunning(layout) !== undefined,
    })
    if (!lock) {
      await ready(stateRunning(layout)!.url)
      return 0
    }
    log = openLog({ level: options.logLevel as 'info', file: options.logFile, readable: detached ? false : undefined })
    // The folder it was called in should not be held for ever.
    if (detached) process.chdir('/')
    const instance = await begin({ ...options, lock: lock.fd }, log, progress)
    if (options.logFile !== undefined) process.on('SIGHUP', instance.reopenLog)
    await ready(instance.url)
    const signal = await ended
    log.info({ signal }, 'stopping; guests and networks run on')
    await instance.stop()
    lock.release()
    return 0
  } catch (error) {
    if (!detached) throw error
    log?.fatal({ err: error }, 'could not start')
    await sendUp({ failed: reason(error) })
    return 1
  }
}

/** Brings what is missing and starts. */
async function begin(options: Omit<UpOptions, 'owner'>, log: RootLog, progress: (line: string) => void): Promise<Instance> {
  const { layout, at, simulated, databaseUrl } = options
  const trouble = await portTrouble(at.host, at.port)
  if (trouble) throw new Error(`cannot listen on ${at.host}:${at.port}: ${trouble}; choose another --listen ADDRESS:PORT`)
  if (simulated === 0) await installPrograms(['host', 'image'], progress)
  const owner = simulated === 0 || !databaseUrl ? await ownerEnsure(progress) : undefined
  const instance = await supervise({ ...options, owner }, log, progress)
  const ca = instance.url.startsWith('https:') && existsSync(layout.ca) ? readFileSync(layout.ca, 'utf8') : undefined
  const reach = { url: instance.url, passwords: passwordsOf(layout), ca }
  // A cloud without images is of use all the same: an offline machine can have its own uploaded.
  await firstImages(reach, simulated > 0, progress).catch(err => {
    log.warn({ err }, 'the guest image could not be made')
    progress(`no guest image: ${reason(err)}`)
  })
  return instance
}

function tell(url: string, clouds: string): void {
  process.stdout.write(`The cloud is up at ${url}

    export OS_CLIENT_CONFIG_FILE=${clouds} OS_CLOUD=nubo
    openstack catalog list
`)
}
