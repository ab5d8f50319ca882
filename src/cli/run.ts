/** `nubo run`: chosen roles of a cloud in one process group, for those who spread it over machines and start it by their own means. */
import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { defaultDataDir, loadConfig, nuboSettings } from '#kit/config.ts'
import { planOf, ROLES } from '../roles/roles.ts'
import { SETTINGS } from '../roles/settings.ts'
import { joinedRead } from './instance/joined.ts'
import { layoutOf } from './instance/layout.ts'
import { addressOf, portEnsure } from './instance/port.ts'
import { runInstance } from './instance/serve.ts'
import { supervise } from './instance/supervise.ts'
import { ownerEnsure } from './instance/user.ts'
import { installPrograms } from './packages.ts'
import { UsageError } from './usage.ts'

const width = Math.max(...Object.keys(ROLES).map(name => name.length))
export const HELP = `Usage: nubo run ROLE... --config FILE [--detach]

Starts the roles, all together as one part of a cloud, and runs until a signal. FILE is a nubo.yaml: 'data' (a folder for each
process of its own), 'listen', 'database_url' (the same for all controllers) and the services' settings; policy.yaml and policy.d/ are
looked for beside it. Controllers on several machines share the folders that settings name (token keys, images).
A host's role alone is for a machine that has joined (nubo join), or beside a controller's role.

${Object.entries(ROLES)
  .map(([name, { about }]) => `  ${name.padEnd(width)}  ${about}`)
  .join('\n')}

  --config FILE   the configuration
  --detach        return when it runs, and run on
`

export async function run(argv: string[]): Promise<number> {
  const { values, positionals: roles } = parseArgs({
    args: argv,
    allowPositionals: true,
    options: {
      config: { type: 'string' },
      detach: { type: 'boolean', default: false },
      detached: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h' },
    },
  })
  if (values.help) {
    process.stdout.write(HELP)
    return 0
  }
  if (values.config === undefined) throw new UsageError('--config FILE is needed')
  if (roles.length === 0) throw new UsageError(`name a role: ${Object.keys(ROLES).join(', ')}`)
  const unknown = roles.filter(name => !Object.hasOwn(ROLES, name))
  if (unknown.length > 0)
    throw new UsageError(`there is no role ${unknown.join(', ')}; there are ${Object.keys(ROLES).join(', ')}`)

  const file = resolve(values.config)
  const config = loadConfig(file, SETTINGS, {}, { required: true }).of(nuboSettings)
  const layout = { ...layoutOf(resolve(config.data ?? defaultDataDir())), config: file }
  const plan = planOf(roles)
  const controls = plan.api.length + plan.work.length > 0
  const hosts = plan.duties.length > 0
  const joined = controls ? undefined : joinedRead(layout)
  if (hosts && process.getuid?.() !== 0 && !joined?.simulated) throw new UsageError('a host needs root')
  const at = addressOf(config.listen)
  return runInstance({
    ...{ command: 'run', argv, layout },
    ...{ detach: values.detach, detached: values.detached, logLevel: config.log_level, logFile: config.log_file },
    async begin({ lock, log, progress, logFile }) {
      if (controls) await portEnsure(at)
      if (hosts && !joined?.simulated) await installPrograms(['host'], progress)
      const owner = controls ? await ownerEnsure(progress) : undefined
      const { database_url: databaseUrl, public_url: publicUrl, region, log_level: logLevel } = config
      const simulated = joined?.simulated ? 1 : 0
      return supervise(
        { layout, at, plan, simulated, joined, own: false, owner, publicUrl, databaseUrl, region, logLevel, logFile, lock },
        log,
        progress,
      )
    },
    told: url => `${roles.join(', ')} ${controls ? `at ${url}` : `of host ${joined?.host} of the cloud at ${url}`}\n`,
  })
}
