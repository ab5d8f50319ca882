import { isDuplicate, lock, sql, type Tx } from '#kit/db/index.ts'
import { badRequest, conflict, notFound } from '#kit/fault.ts'
import { type Call, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { bitsOf, lastOf, overlap, type Prefix, parsePrefix, showPrefix, type Version } from '../address.ts'
import { bool, idField, int, nullableUuid, project, shown, standard, text } from '../api/attributes.ts'
import { mayDo, targetOf } from '../api/authorize.ts'
import { type Changing, type Making, type Removing, type Row, resource } from '../api/resource.ts'
import { insertRow, lockedRow, updateRow } from '../api/write.ts'
import { inUse, invalid, invalidInput, told } from '../faults.ts'
import { granted } from '../networks/facts.ts'
import { rbacForget, rbacShare } from '../rbac/store.ts'
import { networkSeen } from '../subnets/subnets.ts'
import { poolGone } from './take.ts'

const sharedWith = (projectId: string | null) => granted('subnetpool', 'access_as_shared', 'neutron.subnetpools.id', projectId)

/** A list of prefixes, those that touch joined into one. */
function prefixesClean(value: unknown): string[] {
  if (!Array.isArray(value) || value.length === 0) throw invalidInput('prefixes', 'Subnet prefix list is empty or no list')
  const read = value.map(item => {
    const prefix = typeof item === 'string' && item.includes('/') ? parsePrefix(item) : undefined
    if (!prefix) throw invalidInput('prefixes', `'${told(item)}' is not a valid IP subnet`)
    return parsePrefix(showPrefix(prefix))!
  })
  return compact(read).map(showPrefix)
}

/** The fewest prefixes that hold the same addresses. */
function compact(prefixes: readonly Prefix[]): Prefix[] {
  const sorted = [...prefixes].sort((a, b) => (a.value < b.value ? -1 : a.value > b.value ? 1 : a.length - b.length))
  const out: Prefix[] = []
  for (const prefix of sorted) {
    const last = out.at(-1)
    if (last && overlap(last, prefix)) continue
    out.push(prefix)
    for (;;) {
      const [low, high] = out.slice(-2)
      if (!low || !high || low.length !== high.length || low.length === 0) break
      const parent = parsePrefix(`${showPrefix(low).split('/')[0]}/${low.length - 1}`)!
      if (parent.value !== low.value || lastOf(parent) !== lastOf(high)) break
      out.splice(-2, 2, { version: low.version, value: parent.value, length: parent.length })
    }
  }
  return out
}

/** A length of prefixes: a number, shown as text. */
const length = int(0, 128, { nullable: true, read: value => String(value) })

/** Subnet pools. */
export const subnetpools = resource({
  name: 'subnetpool',
  plural: 'subnetpools',
  path: '/subnetpools',
  table: 'neutron.subnetpools',
  gone: poolGone,
  quota: 'subnetpool',
  attributes: {
    id: idField,
    name: text('', 255),
    ...project,
    prefixes: { schema: S.Array(S.Unknown()), create: 'required', clean: prefixesClean, filter: false, sort: false },
    default_quota: int(0, 2147483647, { nullable: true, initial: null }),
    ip_version: shown(S.Integer()),
    min_prefixlen: length,
    max_prefixlen: length,
    default_prefixlen: length,
    address_scope_id: nullableUuid(),
    is_default: bool(false),
    shared: bool(false, { column: null, update: false, read: (_, row) => row.shared }),
    ...standard,
  },
  columns: ctx => [sharedWith(ctx.projectId).as('shared')],
  visible: ctx => sql<boolean>`(neutron.subnetpools.project_id = ${ctx.projectId} or ${sharedWith(ctx.projectId)})`,
  filters: { shared: (values, ctx) => sql<boolean>`${sharedWith(ctx.projectId)} = ${S.toBoolean(values[0]) ?? false}` },
  create: poolMake,
  update: poolChange,
  remove: poolRemove,
})

function versionOf(prefixes: readonly string[]): Version {
  const versions = new Set(prefixes.map(text => parsePrefix(text)!.version))
  if (versions.size > 1) throw invalid('PrefixVersionMismatch', 'Cannot mix IPv4 and IPv6 prefixes in a subnet pool.')
  return [...versions][0]!
}

interface Lengths {
  min: number
  max: number
  usual: number
}

function lengthsOf(version: Version, given: Row, before?: Lengths): Lengths {
  const pick = (name: string, fallback: number): number => (given[name] as number | null | undefined) ?? fallback
  const min = pick('min_prefixlen', before?.min ?? (version === 4 ? 8 : 64))
  const max = pick('max_prefixlen', before?.max ?? bitsOf(version))
  const usual = pick('default_prefixlen', before?.usual ?? min)
  const bad = (low: string, lowest: number, high: string, highest: number) =>
    invalid('IllegalSubnetPoolPrefixBounds', `Illegal prefix bounds: ${low}=${lowest}, ${high}=${highest}.`)
  if (max > bitsOf(version))
    throw invalid(
      'IllegalSubnetPoolPrefixBounds',
      `Illegal prefix bounds: max_prefixlen=${max}, base_prefixlen=${bitsOf(version)}.`,
    )
  if (min > max) throw bad('max_prefixlen', max, 'min_prefixlen', min)
  if (usual < min) throw bad('default_prefixlen', usual, 'min_prefixlen', min)
  if (usual > max) throw bad('default_prefixlen', usual, 'max_prefixlen', max)
  return { min, max, usual }
}

async function poolMake({ tx, ctx, given }: Making): Promise<string> {
  const prefixes = given.prefixes as string[]
  const version = versionOf(prefixes)
  const { min, max, usual } = lengthsOf(version, given)
  if (given.address_scope_id)
    await scopeFits(tx, given.address_scope_id as string, version, prefixes, { projectId: ctx.projectId, isAdmin: ctx.isAdmin })
  try {
    const id = await insertRow(subnetpools, tx, given, {
      ip_version: version,
      min_prefixlen: min,
      max_prefixlen: max,
      default_prefixlen: usual,
    })
    if (given.shared === true) await rbacShare(tx, given.project_id as string, 'subnetpool', id, 'access_as_shared')
    return id
  } catch (error) {
    throw isDuplicate(error, 'subnetpools_default') ? defaultThere(version) : error
  }
}

const defaultThere = (version: number) =>
  badRequest(
    `A default subnetpool for this IP family has already been set. Only one default may exist per IP family (IPv${version}).`,
    { type: 'InvalidInput' },
  )

async function scopeFits(
  tx: Tx,
  id: string,
  version: number,
  prefixes: readonly string[],
  who: { projectId: string | null; isAdmin: boolean; grows?: boolean },
  poolId?: string,
): Promise<void> {
  await lock(tx, `neutron.scope:${id}`)
  const { rows } = await sql<{ ip_version: number; project_id: string; shared: boolean }>`
    select s.ip_version, s.project_id, ${granted('address_scope', 'access_as_shared', 's.id', who.projectId)} as shared
    from neutron.address_scopes s where s.id = ${id}`.execute(tx)
  const scope = rows[0]
  if (!scope) throw notFound(`Address scope ${id} could not be found.`, { type: 'AddressScopeNotFound' })
  const own = who.isAdmin || scope.project_id === who.projectId
  if (!own && !scope.shared) throw notFound(`Address scope ${id} could not be found.`, { type: 'AddressScopeNotFound' })
  // What is in a scope is its owner's to say, once it is in there.
  if (!own && who.grows) {
    throw badRequest(`Illegal subnetpool association: subnetpool cannot associate with address scope ${id}.`, {
      type: 'IllegalSubnetPoolAssociationToAddressScope',
    })
  }
  if (scope.ip_version !== version) {
    const why = `subnetpool cannot associate with address scope ${id} because subnetpool ip_version is not ${scope.ip_version}.`
    throw badRequest(`Illegal subnetpool association: ${why}`, { type: 'IllegalSubnetPoolIpVersionAssociationToAddressScope' })
  }
  const others = await tx
    .selectFrom('neutron.subnetpools')
    .select(['id', 'prefixes'])
    .where('address_scope_id', '=', id)
    .execute()
  for (const other of others) {
    if (other.id === poolId) continue
    const clash = other.prefixes.some(one => prefixes.some(two => overlap(parsePrefix(one)!, parsePrefix(two)!)))
    if (clash)
      throw conflict(`Subnet pools cannot have overlapping prefixes within address scope ${id}.`, {
        type: 'AddressScopePrefixConflict',
      })
  }
}

const within = (outer: readonly string[], inner: readonly string[]): boolean =>
  inner.every(text => {
    const one = parsePrefix(text)!
    return outer.some(other => {
      const whole = parsePrefix(other)!
      return overlap(whole, one) && whole.length <= one.length
    })
  })

async function poolChange({ tx, ctx, row, changes }: Changing): Promise<void> {
  const id = row.id as string
  const before = row.prefixes as string[]
  const prefixes = (changes.prefixes as string[] | undefined) ?? before
  const version = versionOf(prefixes)
  if (version !== row.ip_version) throw invalid('PrefixVersionMismatch', 'Cannot mix IPv4 and IPv6 prefixes in a subnet pool.')
  if (!within(prefixes, before)) {
    throw invalid(
      'IllegalSubnetPoolPrefixUpdate',
      `Illegal update to prefixes: The subnetpool's existing prefixes must stay in it.`,
    )
  }
  const lengths = lengthsOf(version, changes, {
    min: row.min_prefixlen as number,
    max: row.max_prefixlen as number,
    usual: row.default_prefixlen as number,
  })
  const scope =
    'address_scope_id' in changes ? (changes.address_scope_id as string | null) : (row.address_scope_id as string | null)
  if (scope !== null && ('address_scope_id' in changes || 'prefixes' in changes)) {
    await scopeFits(
      tx,
      scope,
      version,
      prefixes,
      { projectId: ctx.projectId, isAdmin: ctx.isAdmin, grows: 'prefixes' in changes && scope === row.address_scope_id },
      id,
    )
  }
  const columns = { min_prefixlen: lengths.min, max_prefixlen: lengths.max, default_prefixlen: lengths.usual }
  try {
    await updateRow(subnetpools, tx, id, { ...changes, ...columns })
  } catch (error) {
    throw isDuplicate(error, 'subnetpools_default') ? defaultThere(version) : error
  }
}

async function poolRemove({ tx, row }: Removing): Promise<void> {
  const id = row.id as string
  const used = await tx.selectFrom('neutron.subnets').select('id').where('subnetpool_id', '=', id).limit(1).executeTakeFirst()
  if (used)
    throw inUse(
      'SubnetPoolInUse',
      `Unable to complete operation on subnet pool ${id}. There are one or more subnets allocated from it.`,
    )
  await rbacForget(tx, 'subnetpool', id)
  await tx.deleteFrom('neutron.subnetpools').where('id', '=', id).execute()
}

const given = (call: Call): string[] => {
  const body = call.body as Row | undefined
  if (typeof body !== 'object' || body === null || !('prefixes' in body)) throw invalidInput('prefixes', 'prefixes is required')
  return prefixesClean(body.prefixes)
}

const change = (verb: 'add_prefixes' | 'remove_prefixes', after: (before: Prefix[], given: Prefix[]) => Prefix[]) =>
  route({
    method: 'PUT',
    path: `/subnetpools/:id/${verb}`,
    policy: null,
    handle: call =>
      call.env.db.tx(async tx => {
        const row = await lockedRow(subnetpools, tx, call, call.params.id!)
        mayDo(call.ctx, subnetpools, targetOf(subnetpools, row), verb)
        const asked = given(call)
        if (versionOf([...asked, ...(row.prefixes as string[])]) !== row.ip_version)
          throw badRequest('Cannot mix IP versions.', { type: 'PrefixVersionMismatch' })
        const prefixes = after(
          (row.prefixes as string[]).map(one => parsePrefix(one)!),
          asked.map(one => parsePrefix(one)!),
        ).map(showPrefix)
        if (verb === 'remove_prefixes') await unusedCheck(tx, row.id as string, prefixes)
        if (row.address_scope_id) {
          await scopeFits(
            tx,
            row.address_scope_id as string,
            row.ip_version as number,
            prefixes,
            { projectId: call.ctx.projectId, isAdmin: true },
            row.id as string,
          )
        }
        await updateRow(subnetpools, tx, row.id as string, { prefixes })
        return { prefixes }
      }),
  })

async function unusedCheck(tx: Tx, poolId: string, left: readonly string[]): Promise<void> {
  const subnets = await tx.selectFrom('neutron.subnets').select('cidr').where('subnetpool_id', '=', poolId).execute()
  if (
    within(
      left,
      subnets.map(subnet => subnet.cidr),
    )
  )
    return
  throw conflict('The prefix is in use: a subnet was allocated from it.', { type: 'IllegalSubnetPoolPrefixUpdate' })
}

/** What is left of a prefix when another is cut out of it. */
function without(prefix: Prefix, cut: Prefix): Prefix[] {
  if (!overlap(prefix, cut)) return [prefix]
  if (cut.length <= prefix.length) return []
  const half = 1n << BigInt(bitsOf(prefix.version) - prefix.length - 1)
  const halves = [prefix.value, prefix.value + half].map(value => ({ version: prefix.version, value, length: prefix.length + 1 }))
  return halves.flatMap(one => without(one, cut))
}

const onboard = route({
  method: 'PUT',
  path: '/subnetpools/:id/onboard_network_subnets',
  policy: null,
  handle: call =>
    call.env.db.tx(async tx => {
      const row = await lockedRow(subnetpools, tx, call, call.params.id!)
      mayDo(call.ctx, subnetpools, targetOf(subnetpools, row), 'onboard_network_subnets')
      const networkId = (call.body as Row | undefined)?.network_id
      if (typeof networkId !== 'string') throw invalidInput('network_id', 'network_id is required')
      await networkSeen(tx, call.ctx, networkId)
      const subnets = await tx
        .selectFrom('neutron.subnets')
        .select(['id', 'cidr'])
        .where('network_id', '=', networkId)
        .where('ip_version', '=', row.ip_version as 4 | 6)
        .where('subnetpool_id', 'is', null)
        .forNoKeyUpdate()
        .execute()
      const prefixes = compact(
        [...(row.prefixes as string[]), ...subnets.map(one => one.cidr)].map(one => parsePrefix(one)!),
      ).map(showPrefix)
      await updateRow(subnetpools, tx, row.id as string, { prefixes })
      if (subnets.length > 0) {
        await tx
          .updateTable('neutron.subnets')
          .set({ subnetpool_id: row.id as string })
          .where(
            'id',
            'in',
            subnets.map(one => one.id),
          )
          .execute()
      }
      return subnets.map(({ id, cidr }) => ({ id, cidr }))
    }),
})

export const prefixRoutes = [
  change('add_prefixes', (before, more) => compact([...before, ...more])),
  change('remove_prefixes', (before, gone) => gone.reduce((left, cut) => left.flatMap(one => without(one, cut)), before)),
  onboard,
]
