/** Images as they were asked of Nova until 2.35, and their metadata until 2.38: Glance answers, in Nova's old words. */
import { badRequest, Fault, forbidden, notFound } from '#kit/fault.ts'
import { callWithin } from '#kit/http/inner.ts'
import { type Call, type Method, type Route, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { glance } from '#services/glance/index.ts'
import { COUNT, Metadata, query, TEXT } from '../fields.ts'
import { fits, projectLimits } from '../quotas/limits.ts'
import { V } from '../versions.ts'
import { linker, nextLink } from '../wire.ts'

const until = V.noProxies - 1
const CLOSED = { additionalProperties: false }

type Image = Record<string, unknown> & { id: string; name: string | null; status: string }

/** Glance's own fields: what is not here is a property. */
const FIELDS = new Set(
  `name disk_format container_format visibility size virtual_size status checksum protected min_ram min_disk owner os_hidden os_hash_algo
   os_hash_value id created_at updated_at tags self file schema stores os_glance_import_task os_glance_importing_to_stores
   os_glance_failed_import locations direct_url`.split(/\s+/),
)

async function ask<T>(call: Call, method: Method, path: string, body?: unknown, type?: string): Promise<T> {
  try {
    return (await callWithin(call, glance, method, `/v2${path}`, body, type)) as T
  } catch (error) {
    if (error instanceof Fault && error.kind === 'notFound') throw notFound('Image not found.', { cause: error })
    throw error
  }
}

const imageOf = (call: Call): Promise<Image> => ask<Image>(call, 'GET', `/images/${encodeURIComponent(call.params.id!)}`)

const propertiesOf = (image: Image): Record<string, string> =>
  Object.fromEntries(Object.entries(image).filter(([key]) => !FIELDS.has(key))) as Record<string, string>

const STATUS: Record<string, string> = { active: 'ACTIVE', queued: 'SAVING', saving: 'SAVING', killed: 'ERROR' }
const PROGRESS: Record<string, number> = { queued: 25, saving: 50, active: 100 }

const linksOf = (call: Call, id: string): object[] => [
  ...linker(call, 'images')(id),
  { rel: 'alternate', type: 'application/vnd.openstack.image', href: new URL(`/image/images/${id}`, call.self('/', '')).href },
]

function shown(call: Call, image: Image): object {
  const metadata = propertiesOf(image)
  const { instance_uuid: server, auto_disk_config: auto } = metadata
  return {
    id: image.id,
    name: image.name,
    minRam: image.min_ram,
    minDisk: image.min_disk,
    metadata,
    created: image.created_at,
    updated: image.updated_at,
    status: STATUS[image.status] ?? 'UNKNOWN',
    progress: PROGRESS[image.status] ?? 0,
    'OS-EXT-IMG-SIZE:size': image.size ?? 0,
    links: linksOf(call, image.id),
    ...(server !== undefined ? { server: { id: server, links: linker(call, 'servers')(server) } } : {}),
    ...(auto !== undefined ? { 'OS-DCF:diskConfig': S.toBoolean(auto) ? 'AUTO' : 'MANUAL' } : {}),
  }
}

/** Nova's filters as Glance's. Throws badRequest. */
function filtersOf({ search }: Call): URLSearchParams {
  const filters = new URLSearchParams()
  const take = (from: string, to: string, change = (text: string) => text) => {
    const value = search.get(from)
    if (value !== null) filters.set(to, change(value))
  }
  take('name', 'name')
  take('status', 'status', text => text.toLowerCase())
  take('server', 'instance_uuid', text => text.slice(text.lastIndexOf('/') + 1))
  take('type', 'image_type')
  take('marker', 'marker')
  take('limit', 'limit')
  take('changes-since', 'updated_at', text => {
    if (Number.isNaN(Date.parse(text))) throw badRequest(`Invalid filter field: changes-since.`)
    return `gte:${text}`
  })
  for (const [name, value] of search) if (name.startsWith('property-')) filters.set(name.slice(9), value)
  return filters
}

async function listed(call: Call): Promise<Image[]> {
  const filters = filtersOf(call)
  const limit = call.search.get('limit')
  if (limit === '0') return []
  const { images } = await ask<{ images: Image[] }>(call, 'GET', `/images?${filters}`)
  const least = (name: string, field: string) => {
    const value = call.search.get(name)
    return (image: Image): boolean => value === null || Number(image[field]) === Number(value)
  }
  return images.filter(least('minRam', 'min_ram')).filter(least('minDisk', 'min_disk'))
}

const next = (call: Call, images: Image[], path: string): object =>
  images.length > 0 && images.length === Number(call.search.get('limit') ?? -1)
    ? { images_links: nextLink(call, path, images.at(-1)!.id) }
    : {}

const listQuery = query(
  {
    name: TEXT,
    status: TEXT,
    'changes-since': TEXT,
    server: TEXT,
    type: TEXT,
    minRam: COUNT,
    minDisk: COUNT,
    limit: COUNT,
    marker: TEXT,
  },
  Infinity,
)

const imageRoutes: Route[] = [
  route({
    method: 'GET',
    path: '/images',
    until,
    policy: null,
    query: listQuery,
    async handle(call) {
      const images = await listed(call)
      const brief = images.map(({ id, name }) => ({ id, name, links: linksOf(call, id) }))
      return { images: brief, ...next(call, images, '/images') }
    },
  }),
  route({
    method: 'GET',
    path: '/images/detail',
    until,
    policy: null,
    query: listQuery,
    async handle(call) {
      const images = await listed(call)
      return { images: images.map(image => shown(call, image)), ...next(call, images, '/images/detail') }
    },
  }),
  route({
    method: 'GET',
    path: '/images/:id',
    until,
    policy: null,
    handle: async call => ({ image: shown(call, await imageOf(call)) }),
  }),
  route({
    method: 'DELETE',
    path: '/images/:id',
    until,
    success: 204,
    policy: null,
    async handle(call) {
      await ask(call, 'DELETE', `/images/${encodeURIComponent(call.params.id!)}`)
    },
  }),
]

const PATCH = 'application/openstack-images-v2.1-json-patch'

/** Makes an image's properties what `change` says of them. Returns what they are then. */
async function change(
  call: Call,
  edit: (metadata: Record<string, string>) => Record<string, string>,
): Promise<Record<string, string>> {
  const image = await imageOf(call)
  const before = propertiesOf(image)
  const after = edit(before)
  const limits = await projectLimits(call.db, call.env.config, call.ctx.projectId ?? '')
  if (!fits(limits.metadata_items, Object.keys(after).length)) throw forbidden('Image metadata limit exceeded')
  const pointer = (key: string): string => `/${key.replaceAll('~', '~0').replaceAll('/', '~1')}`
  const patch = [
    ...Object.keys(before)
      .filter(key => !Object.hasOwn(after, key))
      .map(key => ({ op: 'remove', path: pointer(key) })),
    ...Object.entries(after)
      .filter(([key, value]) => before[key] !== value)
      .map(([key, value]) => ({ op: Object.hasOwn(before, key) ? 'replace' : 'add', path: pointer(key), value })),
  ]
  if (patch.length > 0) await ask(call, 'PATCH', `/images/${image.id}`, patch, PATCH)
  return after
}

const metadataUntil = V.noImageMetadata - 1
const metadataBody = S.Object({ metadata: Metadata() }, CLOSED)
const of = (method: Method, path: string) => ({ method, path: `/images/:id/metadata${path}`, until: metadataUntil, policy: null })
const missing = () => notFound('Invalid metadata key')

const metadataRoutes: Route[] = [
  route({ ...of('GET', ''), handle: async call => ({ metadata: propertiesOf(await imageOf(call)) }) }),
  route({
    ...of('POST', ''),
    body: metadataBody,
    handle: async call => ({ metadata: await change(call, old => ({ ...old, ...call.body.metadata })) }),
  }),
  route({
    ...of('PUT', ''),
    body: metadataBody,
    handle: async call => ({ metadata: await change(call, () => call.body.metadata) }),
  }),
  route({
    ...of('GET', '/:key'),
    async handle(call) {
      const metadata = propertiesOf(await imageOf(call))
      const key = call.params.key!
      if (!Object.hasOwn(metadata, key)) throw missing()
      return { meta: { [key]: metadata[key] } }
    },
  }),
  route({
    ...of('PUT', '/:key'),
    body: S.Object({ meta: Metadata() }, CLOSED),
    async handle(call) {
      const { meta } = call.body
      if (!Object.hasOwn(meta, call.params.key!)) throw badRequest('Request body and URI mismatch')
      await change(call, old => ({ ...old, ...meta }))
      return { meta }
    },
  }),
  route({
    ...of('DELETE', '/:key'),
    success: 204,
    async handle(call) {
      const key = call.params.key!
      await change(call, old => {
        if (!Object.hasOwn(old, key)) throw missing()
        return Object.fromEntries(Object.entries(old).filter(([name]) => name !== key))
      })
    },
  }),
]

export const imageProxyRoutes: Route[] = [...imageRoutes, ...metadataRoutes]
