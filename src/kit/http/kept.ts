/**
 * Answers that are kept while nothing is written.
 *
 * Theory. A snapshot of PostgreSQL is named by the transactions whose effects it holds. While the name is the same, every query gives what it gave
 * before: nothing was committed, by whichever process. So one tiny statement proves that a kept answer is still right, and nobody has to tell of
 * changes. It serves those who ask a big list again and again of a cloud at rest; in one that is never at rest it costs two tiny statements.
 *
 * Only for answers that depend on rows alone: not on the time, and not on what this process knows.
 */
import { type Query, sql } from '../db/index.ts'
import { type ByteBody, bytes, type Call } from './route.ts'

interface Kept {
  snapshot: string
  json: Buffer
}

/** Answers of one caller, and bytes of one answer, that are kept at most. */
const ANSWERS = 8
const BYTES = 4 << 20

/** By what rules of policy see: an object of its own for each token, and again when the policy was read again. */
const keptOf = new WeakMap<object, Map<string, Kept>>()

async function snapshotOf(db: Query): Promise<string> {
  const { rows } = await sql<{ name: string }>`select pg_current_snapshot()::text as name`.execute(db)
  return rows[0]!.name
}

/** What `make` answers, as JSON: made again only if something was written since this caller asked for the same. */
export async function keptAnswer(
  call: Pick<Call, 'ctx' | 'db' | 'url' | 'self' | 'version'>,
  make: () => Promise<object>,
): Promise<ByteBody> {
  const { db, ctx } = call
  const mine = keptOf.get(ctx.credentials) ?? new Map<string, Kept>()
  keptOf.set(ctx.credentials, mine)
  const key = `${call.version} ${call.self('', '')} ${call.url}`
  const snapshot = await snapshotOf(db)
  const known = mine.get(key)
  if (known?.snapshot === snapshot) return answerOf(known.json)
  const json = Buffer.from(JSON.stringify(await make()))
  mine.delete(key)
  // Made of several queries, perhaps: they saw one state if it is the same still.
  if (json.length <= BYTES && (await snapshotOf(db)) === snapshot) {
    mine.set(key, { snapshot, json })
    if (mine.size > ANSWERS) mine.delete(mine.keys().next().value!)
  }
  return answerOf(json)
}

const answerOf = (json: Buffer): ByteBody => bytes(json, { type: 'application/json' })
