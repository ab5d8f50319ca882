import { randomBytes } from 'node:crypto'
import { badRequest } from '#kit/fault.ts'
import { String } from '#kit/http/schema.ts'
import { type Noun, nounRoutes, nounView } from '../noun.ts'
import { Text } from '../shapes.ts'
import { revoke } from '../tokens/stale.ts'

/** Programs that users can authorize by OAuth 1.0a. The secret is shown once. */
export const consumers: Noun = {
  one: 'consumer',
  many: 'consumers',
  path: '/OS-OAUTH1/consumers',
  table: 'keystone.consumers',
  fields: {
    description: { schema: Text() },
    secret: { schema: String(), create: 'never', update: false, show: false, filter: false, sort: false },
  },
  extra: true,
  rules: {
    list: 'list_consumers',
    show: 'get_consumer',
    create: 'create_consumer',
    update: 'update_consumer',
    delete: 'delete_consumer',
  },
  async beforeCreate(_tx, _call, values) {
    values.secret = randomBytes(16).toString('hex')
  },
  async beforeUpdate(_tx, call) {
    if (call.body.consumer!.secret !== undefined) throw badRequest('Cannot update the secret of a consumer.')
  },
  beforeDelete: (tx, _call, row) => revoke(tx, { consumer_id: row.id }),
}

const derived = nounRoutes(consumers)
const create = derived[1]!

export const consumerRoutes = derived.map(one =>
  one !== create
    ? one
    : {
        ...one,
        async handle(call: Parameters<typeof one.handle>[0]) {
          const made = (await one.handle(call)) as { consumer: { id: string } }
          const row = await call.db
            .selectFrom('keystone.consumers')
            .selectAll()
            .where('id', '=', made.consumer.id)
            .executeTakeFirstOrThrow()
          return { consumer: { ...nounView(consumers, row as never, call), secret: row.secret } }
        },
      },
)
