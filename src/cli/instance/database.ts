/** The database of an instance, for commands that look at it from outside. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { loadConfig, nuboSettings } from '#kit/config.ts'
import { type Db, open } from '#kit/db/index.ts'
import { startPostgres } from '#kit/db/postgres.ts'
import { SETTINGS } from '../../roles/settings.ts'
import type { Layout } from './layout.ts'
import { stateLast, stateRunning } from './state.ts'
import { ownerLookUp } from './user.ts'

/** Statements of an operator's command may look at everything. */
const STATEMENT_MS = 120_000

export interface Asked {
  layout: Layout
  /** What the command line said, if anything. */
  url?: string
  name: string
}

/** Where the database of the instance that runs, or of the configuration, is; undefined when it is Nubo's own and nothing runs. */
export function databaseUrlOf({ layout, url }: Asked): string | undefined {
  if (url !== undefined) return url
  const configured = loadConfig(layout.config, SETTINGS).of(nuboSettings).database_url
  return stateRunning(layout)?.databaseUrl ?? configured
}

/** Opens it. What goes wrong with a connection is told to whoever asked the question, so it is not reported besides. */
export const databaseOpen = (url: string, name: string): Db =>
  open({ url, name, max: 4, statementTimeout: STATEMENT_MS, onError: () => undefined })

/**
 * Runs `fn` on the database. Where it is Nubo's own and nothing runs, it is started for as long as that takes. Resolves to undefined when
 * there is none at all: nothing ever ran on this folder.
 */
export async function withDatabase<T>(asked: Asked, fn: (db: Db) => Promise<T>): Promise<T | undefined> {
  const url = databaseUrlOf(asked)
  if (url !== undefined) return closing(databaseOpen(url, asked.name), fn)
  const { layout } = asked
  const last = stateLast(layout)
  if (last?.databaseUrl !== undefined && !last.databaseUrl.includes(encodeURIComponent(layout.postgres)))
    return closing(databaseOpen(last.databaseUrl, asked.name), fn)
  if (!existsSync(join(layout.postgres, 'data'))) return undefined
  const owner = ownerLookUp()
  const postgres = await startPostgres({ folder: layout.postgres, uid: owner?.uid, gid: owner?.gid })
  try {
    return await closing(databaseOpen(postgres.url, asked.name), fn)
  } finally {
    // One that ran already is somebody's: an instance that is starting, or one that will adopt it.
    if (postgres.adopted) postgres.detach()
    else await postgres.stop()
  }
}

async function closing<T>(db: Db, fn: (db: Db) => Promise<T>): Promise<T> {
  try {
    return await fn(db)
  } finally {
    await db.close()
  }
}
