import { afterCommit, notify, type Tx } from '#kit/db/index.ts'
import type { RevocationsTable } from '../tables.ts'

// How a change kills what processes remember of tokens. A writer names what changed by keys: `user:ID`, `project:ID`,
// `domain:ID`, `trust:ID`, `app_cred:ID`, `audit:ID`, `catalog`, or `all` where the set of tokens is not known. The names are
// written in the same transaction (for the poll) and notified at its commit (for speed); the writing process forgets at once.

export const STALE_CHANNEL = 'keystone_stale'

const ears = new Set<(keys: readonly string[]) => void>()

/** Hears of this process's own changes, right after their commit. Returns how to stop. */
export function onOwnStale(fn: (keys: readonly string[]) => void): () => void {
  ears.add(fn)
  return () => ears.delete(fn)
}

/** Says that tokens with any of these keys must be looked at again. */
export async function stale(tx: Tx, ...keys: string[]): Promise<void> {
  if (keys.length === 0) return
  const { id } = await tx.insertInto('keystone.stales').values({ keys }).returning('id').executeTakeFirstOrThrow()
  const payload = JSON.stringify([id, ...keys])
  await notify(tx, STALE_CHANNEL, payload.length < 7000 ? payload : JSON.stringify([id, 'all']))
  afterCommit(tx, () => {
    for (const ear of ears) ear(keys)
  })
}

type Conditions = Partial<Omit<RevocationsTable, 'id' | 'issued_before' | 'revoked_at'>>

/** Kills for good every token issued until now that meets all `conditions`, and makes it stale. */
export async function revoke(tx: Tx, conditions: Conditions): Promise<void> {
  await tx
    .insertInto('keystone.revocations')
    .values({ ...conditions, issued_before: new Date() })
    .execute()
  const keys: string[] = []
  const of = (name: string, id: string | null | undefined) => {
    if (id) keys.push(`${name}:${id}`)
  }
  of('audit', conditions.audit_id)
  of('chain', conditions.audit_chain_id)
  of('trust', conditions.trust_id)
  of('access_token', conditions.access_token_id)
  // The widest keys only when nothing narrower says it.
  if (keys.length === 0) of('user', conditions.user_id)
  if (keys.length === 0) of('project', conditions.project_id)
  if (keys.length === 0) of('domain', conditions.domain_id)
  await stale(tx, ...(keys.length > 0 ? keys : ['all']))
}
