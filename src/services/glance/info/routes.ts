/** What the service can do here. */
import { type Call, route } from '#kit/http/route.ts'
import { glanceSettings } from '../settings.ts'
import { HTTP, type Store, storesOf } from '../stores.ts'

const stores = ({ env }: Pick<Call, 'env'>) => [
  ...storesOf(env).map(s => ({
    id: s.id,
    ...(s.description !== undefined && { description: s.description }),
    ...(s.default && { default: 'true' }),
  })),
  { id: HTTP, description: 'Bytes that a web server keeps', 'read-only': 'true' },
]

export const infoRoutes = [
  route({
    method: 'GET',
    path: '/info/import',
    policy: null,
    handle: ({ env }) => ({
      'import-methods': {
        description: 'Import methods available.',
        type: 'array',
        value: env.config.of(glanceSettings).enabled_import_methods,
      },
    }),
  }),
  route({ method: 'GET', path: '/info/stores', policy: null, handle: call => ({ stores: stores(call) }) }),
  route({
    method: 'GET',
    path: '/info/stores/detail',
    policy: 'stores_info_detail',
    handle: call => ({
      stores: stores(call).map(s => {
        const store = storesOf(call.env).find(({ id }) => id === s.id)
        return store
          ? {
              ...s,
              type: store.folder === null ? 'swift' : 'file',
              weight: 0,
              properties: propertiesOf(store),
            }
          : { ...s, type: 'http', weight: 0, properties: {} }
      }),
    }),
  }),
]

const propertiesOf = ({ folder, container, segmentSize }: Store): Record<string, unknown> =>
  folder === null
    ? { container, large_object_size: segmentSize, large_object_chunk_size: segmentSize }
    : { data_dir: folder, chunk_size: 524_288, thin_provisioning: false }
