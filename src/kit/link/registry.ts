/** Which hosts there are, and how they prove it: rows of `kit.hosts` and the tokens by which new hosts join. */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'
import { notify, type Query, sql, type Tx } from '../db/index.ts'
import { badRequest, conflict, notFound, unauthorized } from '../fault.ts'
import { type Authenticate, HOST_NAME } from './identity.ts'

/** What is known of a host. */
export interface HostState {
  name: string
  createdAt: Date
  /** When it was last connected to any controller; null: never. */
  lastSeenAt: Date | null
  /** Whether it is connected to a live controller. */
  up: boolean
  connectedTo: string[]
}

/** Notified with the name of a host that was removed: its links are to be cut. */
export const HOST_REMOVED = 'kit.host_removed'

// Secrets are 256 random bits, so a fast hash keeps them: there is nothing to guess by trying.
const secretNew = (): string => randomBytes(32).toString('base64url')
const hashOf = (secret: string): Buffer => createHash('sha256').update(secret).digest()
const same = (secret: string, hash: string): boolean => {
  const want = Buffer.from(hash, 'hex')
  const have = hashOf(secret)
  return want.length === have.length && timingSafeEqual(want, have)
}
/** What an unknown host's secret is compared with, so that both cost the same. */
const NOBODY = randomBytes(32).toString('hex')

function checkName(host: string): void {
  if (host.length > 253 || !HOST_NAME.test(host)) throw badRequest(`'${host.slice(0, 64)}' is no host name.`, { field: 'host' })
}

const states = (q: Query) => q.selectFrom('kit.host_states').selectAll()
type StateRow = Awaited<ReturnType<ReturnType<typeof states>['executeTakeFirstOrThrow']>>
const stateOf = (row: StateRow): HostState => ({
  name: row.name,
  createdAt: row.created_at,
  lastSeenAt: row.last_seen_at,
  up: row.up,
  connectedTo: row.connected_to,
})

/** All hosts by name. For joins in SQL there is the view `kit.host_states`. */
export async function hostList(q: Query): Promise<HostState[]> {
  return (await states(q).orderBy('name').execute()).map(stateOf)
}

/** One host. Throws Fault notFound. */
export async function hostFetch(q: Query, name: string): Promise<HostState> {
  const row = await states(q).where('name', '=', name).executeTakeFirst()
  if (!row) throw notFound(`Host ${name} could not be found.`)
  return stateOf(row)
}

/** Makes the hosts' rows if they are missing: for hosts of this process, which need no secret. */
export async function hostsEnsure(tx: Tx, names: readonly string[]): Promise<void> {
  names.forEach(checkName)
  await sql`insert into kit.hosts (name) select unnest(${names}::text[]) on conflict do nothing`.execute(tx)
}

/** Gives a host a new secret, which replaces its old one, and makes its row if it is missing. Only the hash is kept. */
export async function hostSecretIssue(tx: Tx, host: string): Promise<string> {
  checkName(host)
  const secret = secretNew()
  const secret_hash = hashOf(secret).toString('hex')
  await tx
    .insertInto('kit.hosts')
    .values({ name: host, secret_hash, last_seen_at: null })
    .onConflict(c => c.column('name').doUpdateSet({ secret_hash }))
    .execute()
  return secret
}

/** Makes this the host's secret, and the host's row if it is missing: for the host of this machine, whose agent made the secret. */
export async function hostSecretEnsure(tx: Tx, host: string, secret: string): Promise<void> {
  checkName(host)
  const secret_hash = hashOf(secret).toString('hex')
  await tx
    .insertInto('kit.hosts')
    .values({ name: host, secret_hash, last_seen_at: null })
    .onConflict(c => c.column('name').doUpdateSet({ secret_hash }))
    .execute()
}

/** Forgets a host; every controller then cuts its link. Throws Fault notFound. */
export async function hostRemove(tx: Tx, host: string): Promise<void> {
  const { numDeletedRows } = await tx.deleteFrom('kit.hosts').where('name', '=', host).executeTakeFirst()
  if (numDeletedRows === 0n) throw notFound(`Host ${host} could not be found.`)
  await notify(tx, HOST_REMOVED, host)
}

/** Says whether a claim is true, in constant time. Give it to `unixListen` and `agentEndpoint`. */
export function authenticator(q: Query): Authenticate {
  return async ({ host, secret }) => {
    const row = await q.selectFrom('kit.hosts').select('secret_hash').where('name', '=', host).executeTakeFirst()
    const right = same(secret, row?.secret_hash ?? NOBODY)
    return right && row?.secret_hash != null
  }
}

/**
 * Makes a token by which a machine becomes a host: once unless `uses` says otherwise, within `seconds`. With `host` only that one, which may
 * exist already and then gets a new secret. Returns `id.secret`.
 */
export async function joinTokenCreate(tx: Tx, options: { seconds: number; host?: string; uses?: number }): Promise<string> {
  const { seconds, host, uses = 1 } = options
  if (host !== undefined) checkName(host)
  const id = randomBytes(9).toString('base64url')
  const secret = secretNew()
  await tx.deleteFrom('kit.join_tokens').where('expires_at', '<', sql<Date>`now()`).execute()
  await sql`
    insert into kit.join_tokens (id, secret_hash, host, uses_left, expires_at)
    values (${id}, ${hashOf(secret).toString('hex')}, ${host ?? null}, ${uses}, now() + make_interval(secs => ${seconds}))`.execute(
    tx,
  )
  return `${id}.${secret}`
}

/**
 * Uses up a join token and returns the host's secret. Throws Fault unauthorized for a token that is wrong, used, expired or another host's;
 * conflict when the host exists and the token is not for it: a token for new hosts must not take an old one's name.
 */
export async function hostJoin(tx: Tx, token: string, host: string): Promise<string> {
  checkName(host)
  const [id = '', secret = ''] = token.split('.')
  const row = await tx
    .selectFrom('kit.join_tokens')
    .select(['secret_hash', 'host', 'uses_left', sql<boolean>`expires_at > now()`.as('valid')])
    .where('id', '=', id)
    .forUpdate()
    .executeTakeFirst()
  const right = same(secret, row?.secret_hash ?? NOBODY)
  if (!row || !right || !row.valid || (row.host !== null && row.host !== host)) {
    throw unauthorized('The join token is not valid: wrong, used, expired, or made for another host.')
  }
  if (row.host === null && (await tx.selectFrom('kit.hosts').select('name').where('name', '=', host).executeTakeFirst())) {
    throw conflict(`Host ${host} exists already: remove it, or make a token for it.`)
  }
  if (row.uses_left > 1) {
    await tx
      .updateTable('kit.join_tokens')
      .set({ uses_left: row.uses_left - 1 })
      .where('id', '=', id)
      .execute()
  } else await tx.deleteFrom('kit.join_tokens').where('id', '=', id).execute()
  return hostSecretIssue(tx, host)
}
