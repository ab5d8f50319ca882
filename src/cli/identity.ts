/** `nubo identity`: what an operator does to identity on a controller's machine, beside its API. */
import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { defaultDataDir } from '#kit/config.ts'
import type { Db } from '#kit/db/index.ts'
import { openLog } from '#kit/log.ts'
import type { Env } from '#kit/service.ts'
import { KEYS, type KeyKind, keysRotate, mappingTry, passwordReset } from '#services/keystone/index.ts'
import { controllerConfig } from '../roles/controlled.ts'
import { withDatabase } from './instance/database.ts'
import { layoutOf } from './instance/layout.ts'
import { UsageError } from './usage.ts'

export const HELP = `Usage: nubo identity COMMAND [OPTION...]

  rotate-keys [tokens|receipts|credentials]...   new keys (all kinds unless named); nothing is interrupted, no one is logged out.
                        Run it on one machine and copy the folders to the others before the next time.
  reset-password USER   a new password for a user of the default domain, who is enabled, unlocked and logged out; it is printed
  try-mapping RULES ASSERTION   what the rules of a federation mapping make of an assertion; both are files of JSON

  --data DIR            the data folder of the instance
  --database-url URL    the database of a cloud whose controllers run elsewhere
`

export async function run(argv: string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args: argv,
    allowPositionals: true,
    options: { data: { type: 'string' }, 'database-url': { type: 'string' }, help: { type: 'boolean', short: 'h' } },
  })
  const [command, ...words] = positionals
  if (values.help) {
    process.stdout.write(HELP)
    return 0
  }
  const layout = layoutOf(resolve(values.data ?? defaultDataDir()))
  /** Runs `work` on the instance's database and keys. */
  const inside = async (work: (env: Env) => Promise<void>): Promise<void> => {
    if (!existsSync(layout.controller)) throw new Error(`there is no controller on ${layout.data}`)
    const config = controllerConfig({ configFile: layout.config, folder: layout.controller })
    const url = values['database-url']
    const done = await withDatabase({ layout, url, name: 'nubo identity' }, async (db: Db) => {
      await work({ db, config, log: openLog({ level: 'warn' }), hosts: noHosts })
      return true
    })
    if (!done) throw new Error(`there is no cloud on ${layout.data}`)
  }
  switch (command) {
    case 'rotate-keys': {
      const wrong = words.find(word => !KEYS.some(kind => kind === word))
      if (wrong !== undefined) throw new UsageError(`there are no keys of ${wrong}, only of ${KEYS.join(', ')}`)
      const kinds = words.length > 0 ? (words as KeyKind[]) : KEYS
      await inside(async env => {
        for (const kind of kinds) {
          const sealed = await keysRotate(env, kind)
          console.log(kind === 'credentials' ? `${kind}: rotated, ${sealed} sealed anew` : `${kind}: rotated`)
        }
      })
      return 0
    }
    case 'reset-password': {
      const [name, ...more] = words
      if (name === undefined || more.length > 0) throw new UsageError('reset-password takes the name of one user')
      const password = randomBytes(18).toString('base64url')
      await inside(env => passwordReset(env, name, password))
      console.log(password)
      return 0
    }
    case 'try-mapping': {
      const [rules, assertion, ...more] = words
      if (rules === undefined || assertion === undefined || more.length > 0)
        throw new UsageError('try-mapping takes a file of rules and a file with an assertion')
      console.log(JSON.stringify(mappingTry(rules, assertion, '1.0'), null, 2))
      return 0
    }
    default:
      throw new UsageError(command === undefined ? 'what to do?' : `there is no identity command '${command}'`)
  }
}

const noHosts = new Proxy({} as Env['hosts'], {
  get() {
    throw new Error('identity has no hosts')
  },
})
