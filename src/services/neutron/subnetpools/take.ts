// Prefixes out of pools: what a subnet gets that asks for a length, or for nothing.
import type { Context } from '#kit/context.ts'
import { type Query, sql, type Tx } from '#kit/db/index.ts'
import { badRequest, conflict, notFound } from '#kit/fault.ts'
import { lastOf, overlap, type Prefix, parsePrefix, sizeOf, type Version } from '../address.ts'
import { type Making, seesAll } from '../api/resource.ts'
import { granted } from '../networks/facts.ts'

export const poolGone = (id: string) => notFound(`Subnet pool ${id} could not be found.`, { type: 'SubnetPoolNotFound' })

/** A pool that the caller may use, locked. Throws SubnetPoolNotFound. */
async function poolLock(tx: Tx, ctx: Context, id: string) {
  const row = await tx.selectFrom('neutron.subnetpools').selectAll().where('id', '=', id).forNoKeyUpdate().executeTakeFirst()
  if (!row) throw poolGone(id)
  if (row.project_id === ctx.projectId || seesAll(ctx)) return row
  const { rows } = await sql<{ ok: boolean }>`
    select ${granted('subnetpool', 'access_as_shared', 'p.id', ctx.projectId)} as ok from neutron.subnetpools p where p.id = ${id}`.execute(
    tx,
  )
  if (!rows[0]!.ok) throw poolGone(id)
  return row
}

async function poolOf(db: Query, given: Record<string, unknown>): Promise<string> {
  if (given.use_default_subnetpool !== true) return given.subnetpool_id as string
  if (given.subnetpool_id)
    throw badRequest('subnetpool_id and use_default_subnetpool cannot both be specified', { type: 'BadRequest' })
  const version = given.ip_version as number | undefined
  if (version === undefined) throw badRequest('ip_version must be specified with use_default_subnetpool', { type: 'BadRequest' })
  const row = await db
    .selectFrom('neutron.subnetpools')
    .select('id')
    .where('is_default', '=', true)
    .where('ip_version', '=', version)
    .executeTakeFirst()
  if (!row) throw badRequest(`No default subnetpool found for IPv${version}`, { type: 'HTTPBadRequest' })
  return row.id
}

/** Takes a prefix for a new subnet: the one wanted, or a free one of the length wanted. */
export async function prefixTake(
  { tx, ctx, given }: Making,
  _subnetId: string,
  wanted?: Prefix,
): Promise<{ prefix: Prefix; poolId: string }> {
  const pool = await poolLock(tx, ctx, await poolOf(tx, given))
  const version = given.ip_version as number | undefined
  if (version !== undefined && version !== pool.ip_version) {
    throw badRequest(`Cannot allocate IPv${version} subnet from IPv${pool.ip_version} subnet pool.`, { type: 'HTTPBadRequest' })
  }
  const length = wanted?.length ?? (given.prefixlen as number | undefined) ?? pool.default_prefixlen
  const bad = (word: string, limit: number) =>
    badRequest(`Unable to allocate subnet with prefix length ${length}, ${word} allowed prefix is ${limit}.`, {
      type: word === 'minimum' ? 'MinPrefixSubnetAllocationError' : 'MaxPrefixSubnetAllocationError',
    })
  if (length < pool.min_prefixlen) throw bad('minimum', pool.min_prefixlen)
  if (length > pool.max_prefixlen) throw bad('maximum', pool.max_prefixlen)
  const used = await tx
    .selectFrom('neutron.subnets')
    .select(['cidr', 'project_id'])
    .where('subnetpool_id', '=', pool.id)
    .execute()
  quotaCheck(
    pool,
    used.filter(row => row.project_id === given.project_id).map(row => row.cidr),
    length,
  )
  const prefixes = pool.prefixes.map(text => parsePrefix(text)!)
  const taken = used.map(row => parsePrefix(row.cidr)!)
  const prefix = wanted ? thatOne(prefixes, taken, wanted) : freeOne(prefixes, taken, length, pool.ip_version as Version)
  return { prefix, poolId: pool.id }
}

/** The pool's quota counts addresses (IPv4) or /64s (IPv6) of one project. */
function quotaCheck(pool: { default_quota: number | null; ip_version: number }, cidrs: string[], length: number): void {
  if (pool.default_quota === null) return
  const units = (of: number): bigint => (pool.ip_version === 4 ? 1n << BigInt(32 - of) : of >= 64 ? 1n : 1n << BigInt(64 - of))
  const used = cidrs.reduce((sum, cidr) => sum + units(parsePrefix(cidr)!.length), 0n)
  if (used + units(length) > BigInt(pool.default_quota)) {
    throw conflict('Per-tenant subnet pool prefix quota exceeded.', { type: 'SubnetPoolQuotaExceeded' })
  }
}

const failed = (why: string) => conflict(`Failed to allocate subnet: ${why}.`, { type: 'SubnetAllocationError' })

function thatOne(prefixes: Prefix[], taken: Prefix[], wanted: Prefix): Prefix {
  const inside = prefixes.some(one => overlap(one, wanted) && one.length <= wanted.length)
  if (!inside || taken.some(one => overlap(one, wanted)))
    throw failed('Cannot allocate requested subnet from the available set of prefixes')
  return wanted
}

/** The lowest free prefix of a length in the pool. */
function freeOne(prefixes: Prefix[], taken: Prefix[], length: number, version: Version): Prefix {
  const step = sizeOf({ version, value: 0n, length })
  for (const pool of [...prefixes].sort((a, b) => b.length - a.length)) {
    if (pool.length > length) continue
    const inPool = taken.filter(one => overlap(one, pool)).sort((a, b) => (a.value < b.value ? -1 : 1))
    let value = pool.value
    for (const one of inPool) {
      if (overlap({ version, value, length }, one)) value = ((lastOf(one) + step) / step) * step
    }
    if (value + step - 1n <= lastOf(pool)) return { version, value, length }
  }
  throw failed(`Insufficient prefix space to allocate subnet size /${length}`)
}
