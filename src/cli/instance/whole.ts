/** A whole cloud in one instance, as `nubo up` makes it: a controller, and this machine (or pretended ones) as its hosts. */
import { existsSync, readFileSync } from 'node:fs'
import { loadConfig, nuboSettings } from '#kit/config.ts'
import { reason } from '#kit/fault.ts'
import type { RootLog } from '#kit/log.ts'
import { planOf } from '../../roles/roles.ts'
import { SETTINGS } from '../../roles/settings.ts'
import { installPrograms } from '../packages.ts'
import { passwordsOf } from './clouds.ts'
import type { Layout } from './layout.ts'
import { addressOf, portEnsure } from './port.ts'
import type { Service } from './serve.ts'
import { type Instance, supervise, type UpOptions } from './supervise.ts'
import { ownerEnsure } from './user.ts'

/** What the command line said. */
export interface WholeAsked {
  layout: Layout
  listen?: string
  simulated: number
  record?: string
  databaseUrl?: string
  objectDevices?: string[]
}

export type Whole = Pick<Service, 'logLevel' | 'logFile' | 'begin'>

/** Reads the configuration, in which the command line has the last word. Throws Error that names what is wrong in it. */
export function wholeCloud({ layout, listen, simulated, record, databaseUrl, objectDevices }: WholeAsked): Whole {
  const config = loadConfig(layout.config, SETTINGS, {
    nubo: { data: layout.data, listen, database_url: databaseUrl },
  }).of(nuboSettings)
  const options: Omit<UpOptions, 'owner' | 'lock' | 'logFile'> = {
    layout,
    at: addressOf(config.listen),
    simulated,
    record,
    databaseUrl: config.database_url,
    objectDevices,
    region: config.region,
    publicUrl: config.public_url,
    plan: planOf(['controller', 'nova-compute']),
    own: true,
    logLevel: config.log_level,
  }
  return {
    logLevel: config.log_level,
    logFile: config.log_file,
    begin: ({ lock, log, progress, logFile }) => begin({ ...options, lock, logFile }, log, progress),
  }
}

/** Brings what is missing and starts. */
async function begin(options: Omit<UpOptions, 'owner'>, log: RootLog, progress: (line: string) => void): Promise<Instance> {
  const { layout, at, simulated, databaseUrl } = options
  await portEnsure(at)
  if (simulated === 0) await installPrograms(['host', 'image'], progress)
  const owner = simulated === 0 || !databaseUrl ? await ownerEnsure(progress) : undefined
  const instance = await supervise({ ...options, owner }, log, progress)
  if (!instance.bare) return instance
  const ca = instance.url.startsWith('https:') && existsSync(layout.ca) ? readFileSync(layout.ca, 'utf8') : undefined
  const reach = { url: instance.url, passwords: passwordsOf(layout), ca }
  // A cloud without images is of use all the same: an offline machine can have its own uploaded.
  const { firstImages } = await import('./images.ts')
  await firstImages(reach, simulated > 0, progress).catch(err => {
    log.warn({ err }, 'the guest image could not be made')
    progress(`no guest image: ${reason(err)}`)
  })
  return instance
}
