/** `nubo join`: makes this machine a host of a cloud that runs elsewhere, and runs its agent. */
import { hostname } from 'node:os'
import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { defaultDataDir, loadConfig, nuboSettings } from '#kit/config.ts'
import { joinCloud } from '#kit/link/index.ts'
import { planOf } from '../roles/roles.ts'
import { SETTINGS } from '../roles/settings.ts'
import { type JoinedHost, joinedRead, joinedWrite } from './instance/joined.ts'
import { type Layout, layoutOf } from './instance/layout.ts'
import { type Progress, runInstance } from './instance/serve.ts'
import { stateLast } from './instance/state.ts'
import { supervise } from './instance/supervise.ts'
import { installPrograms } from './packages.ts'
import { UsageError } from './usage.ts'

export const HELP = `Usage: nubo join [URL --token TOKEN] [OPTION...]

Makes this machine a host of the cloud at URL (its APIs' address) and runs its agent. A token is made there by 'nubo token' and
is needed once: afterwards 'nubo join' alone starts the agent again. 'nubo down' stops it, 'nubo destroy' takes the machine
out of the cloud's hands. Settings of the host (bridge_mappings, local_ip) stand in DIR/nubo.yaml.

  --token TOKEN   what 'nubo token' printed
  --name NAME     the host's name in the cloud (this machine's host name)
  --data DIR      folder of everything that is kept (/var/lib/nubo for root, else ~/.local/share/nubo)
  --simulate      a pretended host; needs no root
  --detach        return when the agent runs, and run on
`

export async function run(argv: string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args: argv,
    allowPositionals: true,
    options: {
      token: { type: 'string' },
      name: { type: 'string' },
      data: { type: 'string' },
      simulate: { type: 'boolean', default: false },
      detach: { type: 'boolean', default: false },
      detached: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h' },
    },
  })
  if (values.help) {
    process.stdout.write(HELP)
    return 0
  }
  if (positionals.length > 1) throw new UsageError(`one URL, not ${positionals.join(' ')}`)
  const [url] = positionals
  const { token, name = hostname(), simulate } = values
  const layout = layoutOf(resolve(values.data ?? defaultDataDir()))
  const config = loadConfig(layout.config, SETTINGS).of(nuboSettings)
  const known = joinedRead(layout)
  if (!(known?.simulated ?? simulate) && process.getuid?.() !== 0)
    throw new UsageError('a real host needs root. Without root, pretend: nubo join URL --token TOKEN --simulate')
  if (!known && (url === undefined || token === undefined))
    throw new UsageError('this machine has joined no cloud yet: give its URL and a --token (there: nubo token)')
  if (known && url !== undefined && hostOf(url) !== hostOf(known.url))
    throw new UsageError(`this machine is host ${known.host} of the cloud at ${known.url}: nubo destroy first`)
  if (!known && stateLast(layout)?.databaseUrl !== undefined)
    throw new UsageError(`${layout.data} has a cloud of its own, which runs: give another --data, or nubo destroy first`)
  return runInstance({
    ...{ command: 'join', argv, layout, detach: values.detach, detached: values.detached },
    ...{ logLevel: config.log_level, logFile: config.log_file },
    async begin({ lock, log, progress, logFile }) {
      if (!simulate) await installPrograms(['host'], progress)
      // In the process that holds the folder's lock, so that a token is never used twice.
      const joined = joinedRead(layout) ?? (await joinNow(layout, { url: url!, token: token!, name, simulate }, progress))
      const simulated = joined.simulated ? 1 : 0
      const plan = planOf(['nova-compute'])
      const at = { host: '127.0.0.1', port: 0 }
      return supervise(
        { layout, at, plan, simulated, joined, own: false, region: config.region, logLevel: config.log_level, logFile, lock },
        log,
        progress,
      )
    },
    told: () => {
      const joined = joinedRead(layout)
      return `This machine is host ${joined?.host} of the cloud at ${joined?.url}\n`
    },
  })
}

function hostOf(url: string): string {
  if (!URL.canParse(url) || !/^https?:/.test(url))
    throw new UsageError(`'${url}' is no URL: give the address of the cloud's APIs, https://HOST:PORT`)
  return new URL(url).host
}

interface Joining {
  url: string
  token: string
  name: string
  simulate: boolean
}

async function joinNow(layout: Layout, { url, token, name, simulate }: Joining, progress: Progress): Promise<JoinedHost> {
  hostOf(url)
  progress(`joining the cloud at ${url} as ${name}`)
  const joined = await joinCloud(url, token, name)
  if (joined.controllers.length === 0) throw new Error(`the cloud at ${url} does not say where its controllers are`)
  const kept = { ...joined, url, simulated: simulate }
  joinedWrite(layout, kept)
  return kept
}
