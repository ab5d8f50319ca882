import type { Who } from '#kit/context.ts'
import type { Query } from '#kit/db/index.ts'
import { Fault, unauthorized } from '#kit/fault.ts'
import type { Env } from '#kit/service.ts'
import { issue, type Proof } from '../auth/authenticate.ts'
import { type Token, tokenCheck } from '../tokens/token.ts'
import { trustForAuth } from '../trusts/store.ts'
import { ec2Find } from './credentials.ts'

// Whom a request stands for that is signed with the secret of an EC2 credential.

type Found = NonNullable<Awaited<ReturnType<typeof ec2Find>>>

export const mismatch = () => unauthorized('EC2 signature not supplied or invalid.')

/** What such a credential proves, and the scope of its token. Throws unauthorized when it was made under a trust that is gone. */
export async function ec2Proof(
  db: Query,
  { blob, userId, projectId }: Found,
): Promise<{ proof: Proof; scope: { projectId: string } | { trustId: string } }> {
  const proof: Proof = { userId, methods: ['ec2credential'], projectId: projectId! }
  if (typeof blob.trust_id === 'string') {
    const trust = await db
      .selectFrom('keystone.trusts')
      .select('trustee_user_id')
      .where('id', '=', blob.trust_id)
      .executeTakeFirst()
    if (!trust) throw mismatch()
    await trustForAuth(db, blob.trust_id, trust.trustee_user_id)
    return { proof: { ...proof, userId: trust.trustee_user_id }, scope: { trustId: blob.trust_id } }
  }
  if (typeof blob.app_cred_id === 'string') proof.appCredId = blob.app_cred_id
  if (typeof blob.access_token_id === 'string') proof.accessTokenId = blob.access_token_id
  return { proof, scope: { projectId: projectId! } }
}

/** The last tokens issued here, by what was proven: signed requests come in great numbers. */
const issued = new WeakMap<Env, Map<string, string>>()
const MOST = 10_000

/**
 * The secret of an EC2 access key and whom its signatures stand for, for a service in this cloud that checks signatures itself. Null when
 * there is no such key, or when it stands for nobody (any more).
 */
export async function signerOf(env: Env, access: string): Promise<{ secret: string; who: Who } | null> {
  const found = await ec2Find(env.db.read, env, access)
  if (typeof found?.blob.secret !== 'string' || found.projectId === null) return null
  try {
    const token = await tokenFor(env, found)
    // rules of an application credential name paths of this cloud's own APIs: none of them allows a signed request
    return token.appCred?.access_rules ? null : { secret: found.blob.secret, who: token.who }
  } catch (error) {
    if (error instanceof Fault && (error.kind === 'unauthorized' || error.kind === 'forbidden')) return null
    throw error
  }
}

async function tokenFor(env: Env, found: Found): Promise<Token> {
  const known = issued.get(env) ?? new Map<string, string>()
  issued.set(env, known)
  const { secret: _, ...what } = found.blob
  const key = JSON.stringify([found.userId, found.projectId, what])
  const kept = known.get(key)
  const checked = kept === undefined ? null : await tokenCheck(env, kept)
  if (checked) return checked
  const { proof, scope } = await ec2Proof(env.db.read, found)
  const { token, id } = await issue(env, proof, scope)
  known.delete(key)
  known.set(key, id)
  if (known.size > MOST) known.delete(known.keys().next().value!)
  return token
}
