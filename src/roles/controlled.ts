/**
 * The controller as `nubo up` starts it: every service, first content of the cloud included. As a process of its own it is started by root,
 * loads all its code, and then becomes the unprivileged user before it reads a byte of anybody: so the program may lie where that user
 * cannot read it.
 */
import { rmSync } from 'node:fs'
import { flushCompileCache } from 'node:module'
import { dirname } from 'node:path'
import { type Config, loadConfig } from '#kit/config.ts'
import { type Log, openLog } from '#kit/log.ts'
import { imagesAreThere } from '#services/glance/index.ts'
import { authenticate, bootstrap, bootstrapPrepare, bootstrapped } from '#services/keystone/index.ts'
import { neutronSettings, seedNetworks } from '#services/neutron/index.ts'
import { seedFlavors } from '#services/nova/index.ts'
import { CATALOG } from './catalog.ts'
import { type Controller, startController } from './controller.ts'
import { SERVICES } from './services.ts'
import { SETTINGS } from './settings.ts'

/** What the parent tells. Plain data: it crosses a process boundary. */
export interface ControlledOptions {
  configFile: string
  /** Folder of the controller's own files. */
  folder: string
  databaseUrl: string
  at: { host: string; port: number }
  /** Unique among the controllers of the cloud; `controller` unless given. */
  name?: string
  /** Names of the services whose API is answered here, and of those whose sagas, tasks and events run here; all unless given. */
  api?: readonly string[]
  work?: readonly string[]
  /** URL under which clients reach the cloud. */
  publicUrl: string
  /** Leave the catalog of a cloud that exists as it is. */
  keepCatalog?: boolean
  /** Address under which host agents reach it. */
  address?: string
  /** The cloud's own authority, in PEM. */
  ca?: string
  tls?: { key: string; cert: string }
  region: string
  passwords: { admin: string; demo: string }
  record?: string | number
  /** Where the log goes instead of standard error; opened again at SIGHUP. */
  logFile?: string
  local?: { socket: string; host: string; secret: string }
  inProcess?: string[]
  /** Folders that hold objects, in place of those of the configuration. */
  objectDevices?: readonly string[]
  user?: { uid: number; gid: number }
  logLevel?: string
}

/** The configuration of a controller: the operators' file, with the controller's own folder as its data folder. */
export function controllerConfig(options: Pick<ControlledOptions, 'configFile' | 'folder' | 'objectDevices'>): Config {
  const { objectDevices: devices } = options
  return loadConfig(options.configFile, SETTINGS, {
    nubo: { data: options.folder },
    ...(devices?.length ? { swift: { devices, replicas: Math.min(3, devices.length) } } : {}),
  })
}

export interface Controlled extends Controller {
  /** Whether this start made the cloud's first content, with the passwords that it was given. */
  made: boolean
  /** Whether it has no image yet. */
  bare: boolean
}

/** Starts it in this process. */
export async function startControlled(options: ControlledOptions, log: Log): Promise<Controlled> {
  const names = SERVICES.map(s => s.name)
  let made = false
  if (options.local) rmSync(options.local.socket, { force: true })
  const controller = await startController({
    config: controllerConfig(options),
    policyFolder: dirname(options.configFile),
    log,
    name: options.name ?? 'controller',
    databaseUrl: options.databaseUrl,
    services: SERVICES,
    api: options.api ?? names,
    work: options.work ?? names,
    address: options.address,
    ca: options.ca,
    identify: async env =>
      authenticate(
        env,
        SERVICES.map(({ prefix, type }) => ({ prefix, type })),
      ),
    at: options.at,
    tls: options.tls,
    record: options.record,
    local: options.local,
    inProcess: options.inProcess,
    async prepare(env) {
      const known = await bootstrapped(env.db.read)
      if (known && options.keepCatalog) return
      const wanted = {
        adminPassword: options.passwords.admin,
        demoPassword: options.passwords.demo,
        publicUrl: options.publicUrl,
        region: options.region,
        services: CATALOG.filter(c => names.includes(c.name)),
      }
      // Hashing takes a while on purpose; users that exist keep the password they have.
      const prepared = known ? { ...wanted, adminHash: '', demoHash: '' } : await bootstrapPrepare(env, wanted)
      await env.db.tx(async tx => {
        const { adminProjectId, demoProjectId } = await bootstrap(tx, prepared)
        const shared = { project: demoProjectId, adminProject: adminProjectId, sharedWith: [adminProjectId] }
        await seedFlavors(tx)
        await seedNetworks(env, tx, { ...shared, externalCidr: env.config.of(neutronSettings).external_cidr })
      })
      made = !known
    },
  })
  return { ...controller, made, bare: !(await imagesAreThere(controller.env.db.read)) }
}

/** Longest that an orderly end may take. */
const END_MS = 10_000

/** The body of the controller's own process: waits for its options, becomes the user, starts, and ends with its parent. */
export async function controlledMain(): Promise<void> {
  const options = await new Promise<ControlledOptions>(resolve =>
    process.once('message', message => resolve(message as ControlledOptions)),
  )
  if (options.user) {
    // What was compiled is kept for the next start while this process may still write there.
    flushCompileCache()
    process.setgroups?.([])
    process.setgid?.(options.user.gid)
    process.setuid?.(options.user.uid)
  }
  const log = openLog({ level: options.logLevel as 'info', file: options.logFile, readable: false })
  process.on('SIGHUP', () => log.reopen())
  let controller: Controlled | undefined
  let ending = false
  const end = async (): Promise<void> => {
    if (ending) return
    ending = true
    // What cannot be let go of in order is taken up by the next process as after a crash.
    setTimeout(() => process.exit(1), END_MS).unref()
    await controller?.close()
    process.exit(0)
  }
  process.once('SIGTERM', () => void end())
  process.once('SIGINT', () => {}) // a terminal's Ctrl-C reaches the whole group; the parent tells when to end
  process.once('disconnect', () => void end())
  process.on('uncaughtException', err => {
    log.fatal({ err }, 'uncaught; the process ends and its work is taken up again')
    process.exit(1)
  })
  try {
    controller = await startControlled(options, log)
    process.send!({ ready: controller.url, made: controller.made, bare: controller.bare })
  } catch (error) {
    log.error({ err: error }, 'the controller could not start')
    process.send!({ failed: error instanceof Error ? error.message : String(error) })
    process.exit(1)
  }
}
