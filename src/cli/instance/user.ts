/** The unprivileged system user of controllers and PostgreSQL. Made when root starts Nubo for the first time. */
import { readFileSync } from 'node:fs'
import { run } from '#host/run.ts'
import type { Owner } from './layout.ts'

const NAME = 'nubo'

/** The user, if there is one; undefined where this process is not root. */
export function ownerLookUp(): Owner | undefined {
  return process.getuid?.() === 0 ? lookUp() : undefined
}

function lookUp(): Owner | undefined {
  const line = readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .find(l => l.startsWith(`${NAME}:`))
  const [, , uid, gid] = line?.split(':') ?? []
  return uid === undefined ? undefined : { uid: Number(uid), gid: Number(gid) }
}

/** The user, made if it is missing; undefined where this process is not root and everything runs as the caller. Throws useradd's words. */
export async function ownerEnsure(say: (line: string) => void): Promise<Owner | undefined> {
  if (process.getuid?.() !== 0) return undefined
  const known = lookUp()
  if (known) return known
  say(`making the system user '${NAME}' for everything that needs no privileges`)
  await run([
    'useradd',
    '--system',
    '--user-group',
    '--no-create-home',
    '--home-dir',
    '/nonexistent',
    '--shell',
    '/usr/sbin/nologin',
    NAME,
  ])
  const made = lookUp()
  if (!made) throw new Error(`useradd made the user ${NAME}, but /etc/passwd does not have it`)
  return made
}
