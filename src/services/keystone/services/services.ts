import { String } from '#kit/http/schema.ts'
import { type Noun, nounRoutes, nounView } from '../noun.ts'
import { Flag, Name, Text } from '../shapes.ts'
import { stale } from '../tokens/stale.ts'

/** Services: what the catalog lists. */
export const services: Noun = {
  one: 'service',
  many: 'services',
  path: '/services',
  table: 'keystone.services',
  fields: {
    type: { schema: String({ minLength: 1, maxLength: 255 }), create: 'required' },
    name: { schema: Name() },
    description: { schema: Text() },
    enabled: { schema: Flag() },
  },
  extra: true,
  rules: {
    list: 'list_services',
    show: 'get_service',
    create: 'create_service',
    update: 'update_service',
    delete: 'delete_service',
  },
  async views(rows, call) {
    return rows.map(row => {
      const { description, name, ...view } = nounView(services, row, call)
      return { ...view, name: name ?? '', description: description ?? '' }
    })
  },
  afterCreate: tx => stale(tx, 'catalog'),
  afterUpdate: tx => stale(tx, 'catalog'),
  beforeDelete: tx => stale(tx, 'catalog'),
}

export const serviceRoutes = nounRoutes(services)
