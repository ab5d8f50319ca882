/** /flavors: list, show, create, describe, delete. */
import { randomUUID } from 'node:crypto'
import type { Context } from '#kit/context.ts'
import { badRequest } from '#kit/fault.ts'
import { type Call, type Route, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { COUNT, Description, Flag, Name, pageOf, query, TEXT, Whole, wholeOf } from '../fields.ts'
import { novaSettings } from '../settings.ts'
import { V } from '../versions.ts'
import { linker, nextLink } from '../wire.ts'
import { type Flavor, flavorCreate, flavorDelete, flavorDescribe, flavorFetch, flavorList } from './store.ts'

const SORT_KEYS = [
  'created_at',
  'description',
  'disabled',
  'ephemeral_gb',
  'flavorid',
  'id',
  'is_public',
  'memory_mb',
  'name',
  'root_gb',
  'swap',
  'updated_at',
  'vcpu_weight',
  'vcpus',
]

const parameters = (extra: object, sortKeys: string[]) => ({
  limit: COUNT,
  marker: TEXT,
  is_public: TEXT,
  minRam: TEXT,
  minDisk: TEXT,
  sort_key: { type: 'string', enum: sortKeys },
  sort_dir: { type: 'string', enum: ['asc', 'desc'] },
  ...extra,
})
const listQuery = S.byVersion(
  [0, query(parameters({}, [...SORT_KEYS, 'rxtx_factor']))],
  [V.flavorName, query(parameters({ name: TEXT }, SORT_KEYS), V.flavorName)],
)

const createBody = S.Object(
  {
    flavor: S.Object(
      {
        name: Name(),
        id: S.Optional(
          S.Unsafe<string | number | null>({
            type: ['string', 'number', 'null'],
            minLength: 1,
            maxLength: 255,
            pattern: '^(?! )[a-zA-Z0-9. _-]+(?<! )$',
          }),
        ),
        ram: Whole(1),
        vcpus: Whole(1),
        disk: Whole(0),
        'OS-FLV-EXT-DATA:ephemeral': S.Optional(Whole(0)),
        swap: S.Optional(Whole(0)),
        rxtx_factor: S.until(
          V.flavorName - 1,
          S.Optional(
            S.Unsafe<number | string>({
              type: ['number', 'string'],
              pattern: '^[0-9]+(\\.[0-9]+)?$',
              exclusiveMinimum: 0,
              maximum: 3.40282e38,
            }),
          ),
        ),
        'os-flavor-access:is_public': S.Optional(Flag()),
        description: S.since(V.flavorDescription, S.Optional(Description(65_535))),
      },
      { additionalProperties: false },
    ),
  },
  { additionalProperties: false },
)

const mayShowSpecs = (ctx: Context, version: number): boolean =>
  version >= V.flavorExtraSpecs && ctx.can('os_compute_api:os-flavor-extra-specs:index', { project_id: ctx.projectId })

/** How flavors look in one answer. */
export function flavorViews(call: Pick<Call, 'self' | 'params' | 'ctx' | 'version'>): {
  basic(flavor: Flavor): object
  show(flavor: Flavor): object
} {
  const links = linker(call, 'flavors')
  const { version } = call
  const specs = mayShowSpecs(call.ctx, version)
  const described = version >= V.flavorDescription
  return {
    basic: flavor => ({
      id: flavor.id,
      name: flavor.name,
      links: links(flavor.id),
      ...(described ? { description: flavor.description } : {}),
    }),
    show: flavor => ({
      id: flavor.id,
      name: flavor.name,
      ram: flavor.memory_mb,
      disk: flavor.root_gb,
      swap: flavor.swap_mb || (version >= V.cleanup ? 0 : ''),
      'OS-FLV-EXT-DATA:ephemeral': flavor.ephemeral_gb,
      ...(version < V.flavorName ? { 'OS-FLV-DISABLED:disabled': flavor.disabled, rxtx_factor: flavor.rxtx_factor } : {}),
      vcpus: flavor.vcpus,
      'os-flavor-access:is_public': flavor.is_public,
      links: links(flavor.id),
      ...(described ? { description: flavor.description } : {}),
      ...(specs ? { extra_specs: flavor.extra_specs } : {}),
    }),
  }
}

function isPublicOf(ctx: Context, text: string | null): boolean | null {
  if (!ctx.isAdmin || text === null) return true
  if (text.toLowerCase() === 'none') return null
  const value = S.toBoolean(text.toLowerCase())
  if (value === undefined) throw badRequest(`Invalid is_public filter [${text}]`)
  return value
}

function atLeast(search: URLSearchParams, name: string): number | undefined {
  const text = search.get(name)
  if (text === null) return undefined
  if (!/^\s*-?\d{1,9}\s*$/.test(text)) throw badRequest(`Invalid ${name} filter [${text}]`)
  return Number(text)
}

async function listed(call: Call): Promise<Flavor[]> {
  const { ctx, search, db, env, version } = call
  const { limit, marker } = pageOf(search, env.config.of(novaSettings).max_limit)
  return flavorList(db, ctx, {
    isPublic: isPublicOf(ctx, search.get('is_public')),
    minRam: atLeast(search, 'minRam'),
    minDisk: atLeast(search, 'minDisk'),
    name: version >= V.flavorName ? (search.get('name') ?? undefined) : undefined,
    sortKey: search.get('sort_key') ?? 'flavorid',
    sortDir: (search.get('sort_dir') ?? 'asc') as 'asc' | 'desc',
    limit,
    marker,
  })
}

const withNext = (call: Call, rows: Flavor[], path: string): object => {
  const { limit } = pageOf(call.search, call.env.config.of(novaSettings).max_limit)
  return rows.length > 0 && rows.length === limit ? { flavors_links: nextLink(call, path, rows.at(-1)!.id) } : {}
}

const list = route({
  method: 'GET',
  path: '/flavors',
  policy: null,
  query: listQuery,
  async handle(call) {
    const rows = await listed(call)
    return { flavors: rows.map(flavorViews(call).basic), ...withNext(call, rows, '/flavors') }
  },
})

const detail = route({
  method: 'GET',
  path: '/flavors/detail',
  policy: null,
  query: listQuery,
  async handle(call) {
    const rows = await listed(call)
    return { flavors: rows.map(flavorViews(call).show), ...withNext(call, rows, '/flavors/detail') }
  },
})

const show = route({
  method: 'GET',
  path: '/flavors/:id',
  policy: null,
  query: query({}, V.flavorName),
  target: ({ db, ctx, params }) => flavorFetch(db, ctx, params.id!),
  handle: call => ({ flavor: flavorViews(call).show(call.target) }),
})

const create = route({
  method: 'POST',
  path: '/flavors',
  policy: 'os_compute_api:os-flavor-manage:create',
  body: createBody,
  async handle(call) {
    const { flavor } = call.body
    const number = (field: keyof typeof flavor, minimum: number, otherwise = 0): number => {
      const value = flavor[field] as string | number | undefined
      return value === undefined ? otherwise : wholeOf(value, `flavor.${field}`, minimum)
    }
    const row = {
      id: flavor.id === undefined || flavor.id === null || flavor.id === 'auto' ? randomUUID() : String(flavor.id),
      name: flavor.name,
      vcpus: number('vcpus', 1),
      memory_mb: number('ram', 1),
      root_gb: number('disk', 0),
      ephemeral_gb: number('OS-FLV-EXT-DATA:ephemeral', 0),
      swap_mb: number('swap', 0),
      rxtx_factor: Number(flavor.rxtx_factor ?? 1),
      is_public: S.toBoolean(flavor['os-flavor-access:is_public'] ?? true) ?? true,
      description: flavor.description ?? null,
    }
    if (!(row.rxtx_factor > 0))
      throw badRequest(`Invalid input for field/attribute rxtx_factor. Value: ${flavor.rxtx_factor}. It must be above 0.`)
    const made = await call.env.db.tx(tx => flavorCreate(tx, row))
    return { flavor: flavorViews(call).show(made) }
  },
})

const update = route({
  method: 'PUT',
  path: '/flavors/:id',
  since: V.flavorDescription,
  policy: 'os_compute_api:os-flavor-manage:update',
  body: S.Object(
    { flavor: S.Object({ description: Description(65_535) }, { additionalProperties: false }) },
    { additionalProperties: false },
  ),
  async handle(call) {
    const row = await call.env.db.tx(tx => flavorDescribe(tx, call.params.id!, call.body.flavor.description))
    return { flavor: flavorViews(call).show(row) }
  },
})

const remove = route({
  method: 'DELETE',
  path: '/flavors/:id',
  success: 202,
  policy: 'os_compute_api:os-flavor-manage:delete',
  async handle({ env, params }) {
    await env.db.tx(tx => flavorDelete(tx, params.id!))
  },
})

export const flavorRoutes: Route[] = [list, detail, show, create, update, remove]
