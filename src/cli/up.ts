/** `nubo up`: a whole cloud on this machine. */
import { existsSync, readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { defaultDataDir, loadConfig, nuboSettings } from '#kit/config.ts'
import { reason } from '#kit/fault.ts'
import type { RootLog } from '#kit/log.ts'
import { sections } from '../roles/controlled.ts'
import { planOf } from '../roles/roles.ts'
import { passwordsOf } from './instance/clouds.ts'
import { firstImages } from './instance/images.ts'
import { joinedRead } from './instance/joined.ts'
import { layoutOf } from './instance/layout.ts'
import { addressOf, portEnsure } from './instance/port.ts'
import { runInstance } from './instance/serve.ts'
import { type Instance, supervise, type UpOptions } from './instance/supervise.ts'
import { ownerEnsure } from './instance/user.ts'
import { installPrograms } from './packages.ts'
import { UsageError } from './usage.ts'

export const HELP = `Usage: nubo up [OPTION...]

Starts a cloud on this machine and prints how to use it. Run it again after 'nubo down', a crash or a reboot:
it finds what is there.

  --data DIR            folder of everything that is kept (/var/lib/nubo for root, else ~/.local/share/nubo)
  --listen ADDR:PORT    where all APIs are served (127.0.0.1:5000); anything but loopback is served by TLS
  --simulate[=HOSTS]    pretended hosts instead of this machine; needs no root
  --detach              return when every API answers, and run on
  --record FILE         write every exchange to FILE, one HAR entry a line
  --database-url URL    use this PostgreSQL instead of an own one
  --object-devices DIR  a folder that holds objects, one a disk; may be given again for more. Remembered. Up to three copies of each object
`

interface Asked {
  options: Omit<UpOptions, 'owner' | 'lock' | 'logFile'>
  detach: boolean
  detached: boolean
  logFile?: string
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
      'object-devices': { type: 'string', multiple: true },
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
  return {
    options: {
      layout,
      at: addressOf(config.listen),
      simulated,
      record: values.record && resolve(values.record),
      databaseUrl: config.database_url,
      objectDevices: values['object-devices']?.map(device => resolve(device)),
      region: config.region,
      publicUrl: config.public_url,
      plan: planOf(['controller', 'nova-compute']),
      own: true,
      logLevel: config.log_level,
    },
    logFile: config.log_file,
    detach: values.detach,
    detached: values.detached,
  }
}

export async function run(argv: string[]): Promise<number> {
  const asked = ask(argv)
  if (!asked) return 0
  const { options, detach, detached, logFile } = asked
  const { layout } = options
  if (process.getuid?.() !== 0 && options.simulated === 0) {
    throw new UsageError('real servers need root. Without root, pretend: nubo up --simulate')
  }
  const joined = joinedRead(layout)
  if (joined) {
    throw new UsageError(
      `${layout.data} is that of host ${joined.host} of the cloud at ${joined.url}: nubo join --data ${layout.data} starts it. ` +
        'A cloud of its own needs another --data',
    )
  }
  return runInstance({
    ...{ command: 'up', argv, layout, detach, detached, logFile, logLevel: options.logLevel },
    begin: ({ lock, log, progress, logFile }) => begin({ ...options, lock, logFile }, log, progress),
    told: url => told(url, layout.clouds),
  })
}

/** Brings what is missing and starts. */
async function begin(options: Omit<UpOptions, 'owner'>, log: RootLog, progress: (line: string) => void): Promise<Instance> {
  const { layout, at, simulated, databaseUrl } = options
  await portEnsure(at)
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

const told = (url: string, clouds: string): string => `The cloud is up at ${url}

    export OS_CLIENT_CONFIG_FILE=${clouds} OS_CLOUD=nubo
    openstack catalog list
`
