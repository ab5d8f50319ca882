import { json, type Query, type Tx } from '#kit/db/index.ts'
import { badRequest, conflict } from '#kit/fault.ts'
import { type Call, route } from '#kit/http/route.ts'
import { Array, Boolean, Integer, Nullable, Object, Optional, String } from '#kit/http/schema.ts'
import { domainMustExist } from '../domains/store.ts'
import { identityOf } from '../identity.ts'
import {
  filtered,
  listView,
  missing,
  type Noun,
  newId,
  nounFetch,
  nounRoutes,
  nounView,
  pageOf,
  type Row,
  type Rows,
  selfUrl,
} from '../noun.ts'
import { Flag, Text } from '../shapes.ts'
import { revoke, stale } from '../tokens/stale.ts'
import { rulesCheck } from './rules.ts'

// Who may vouch for users (identity providers, each with protocols), how what they say becomes users and groups (mappings), and
// whom we vouch to (service providers).

const FED = '/OS-FEDERATION'

export const identityProviders: Noun = {
  one: 'identity_provider',
  many: 'identity_providers',
  path: `${FED}/identity_providers`,
  table: 'keystone.idps',
  putCreates: true,
  fields: {
    enabled: { schema: Flag() },
    description: { schema: Text() },
    domain_id: { schema: Nullable(String({ maxLength: 64 })) },
    authorization_ttl: { schema: Nullable(Integer({ minimum: 0 })) },
    remote_ids: { schema: Nullable(Array(String({ maxLength: 255 }), { uniqueItems: true })), column: null, show: false },
    id: { schema: String(), create: 'never', update: false },
  },
  rules: {
    list: 'list_identity_providers',
    show: 'get_identity_provider',
    create: 'create_identity_provider',
    update: 'update_identity_provider',
    delete: 'delete_identity_provider',
  },
  duplicate: values => `Duplicate entry found with ID or remote ID ${values.id as string}`,
  async beforeCreate(tx, call, values) {
    values.enabled ??= false
    const ttl = identityOf(call.env).settings.federation.default_authorization_ttl
    if (values.authorization_ttl === undefined && ttl > 0) values.authorization_ttl = ttl
    if (typeof values.domain_id === 'string') {
      await domainMustExist(tx, values.domain_id)
      return
    }
    // Users of a provider without a domain get one of their own.
    const id = newId()
    await tx
      .insertInto('keystone.projects')
      .values({
        id,
        name: id,
        domain_id: null,
        parent_id: null,
        is_domain: true,
        description: `Auto generated federated domain for Identity Provider: ${values.id as string}`,
      })
      .execute()
    values.domain_id = id
  },
  afterCreate: (tx, _call, row) => remotesStore(tx, row.id, row.remote_ids),
  async beforeUpdate(tx, _call, row, changes) {
    if (changes.domain_id !== undefined && changes.domain_id !== row.domain_id)
      throw badRequest('The domain of an identity provider cannot be changed.')
    if (changes.remote_ids !== undefined) await remotesStore(tx, row.id, changes.remote_ids)
  },
  async afterUpdate(tx, _call, before, after) {
    if (before.enabled && !after.enabled) await usersRevoke(tx, after.id)
  },
  beforeDelete: (tx, _call, row) => usersRevoke(tx, row.id),
  async views(rows, call) {
    if (rows.length === 0) return []
    const remotes = await call.db
      .selectFrom('keystone.idp_remotes')
      .selectAll()
      .where(
        'idp_id',
        'in',
        rows.map(row => row.id),
      )
      .orderBy('remote_id')
      .execute()
    return rows.map(row => {
      const view = nounView(identityProviders, row, call)
      const self = selfUrl(call, `${FED}/identity_providers/${row.id}`)
      return {
        ...view,
        remote_ids: remotes.filter(remote => remote.idp_id === row.id).map(remote => remote.remote_id),
        links: { self, protocols: `${self}/protocols` },
      }
    })
  },
}

async function remotesStore(tx: Tx, idp: string, remotes: unknown): Promise<void> {
  await tx.deleteFrom('keystone.idp_remotes').where('idp_id', '=', idp).execute()
  const rows = ((remotes ?? []) as string[]).map(remote_id => ({ idp_id: idp, remote_id }))
  if (rows.length > 0) await tx.insertInto('keystone.idp_remotes').values(rows).execute()
}

/** A provider that is no longer trusted takes its users' sessions along. */
async function usersRevoke(tx: Tx, idp: string): Promise<void> {
  const users = await tx.selectFrom('keystone.federated').select('user_id').distinct().where('idp_id', '=', idp).execute()
  for (const { user_id } of users) await revoke(tx, { user_id })
}

const Rules = Array(Object({}, { additionalProperties: true }))

export const mappings: Noun = {
  one: 'mapping',
  many: 'mappings',
  path: `${FED}/mappings`,
  table: 'keystone.mappings',
  putCreates: true,
  fields: {
    rules: { schema: Rules, create: 'required', write: json, filter: false, sort: false },
    schema_version: { schema: String({ enum: ['1.0', '2.0'] }) },
  },
  rules: {
    list: 'list_mappings',
    show: 'get_mapping',
    create: 'create_mapping',
    update: 'update_mapping',
    delete: 'delete_mapping',
  },
  duplicate: values => `Duplicate entry found with ID ${values.id as string}`,
  async beforeCreate(_tx, call, values) {
    values.schema_version ??= identityOf(call.env).settings.federation.attribute_mapping_default_schema_version
    rulesCheck(values.rules as unknown[], values.schema_version as string)
  },
  async beforeUpdate(_tx, _call, row, changes) {
    if (changes.rules !== undefined || changes.schema_version !== undefined) {
      rulesCheck((changes.rules ?? row.rules) as unknown[], (changes.schema_version ?? row.schema_version) as string)
    }
  },
}

export const serviceProviders: Noun = {
  one: 'service_provider',
  many: 'service_providers',
  path: `${FED}/service_providers`,
  table: 'keystone.service_providers',
  putCreates: true,
  fields: {
    auth_url: { schema: String({ maxLength: 256, format: 'uri' }), create: 'required' },
    sp_url: { schema: String({ maxLength: 256, format: 'uri' }), create: 'required' },
    enabled: { schema: Boolean() },
    description: { schema: Text() },
    relay_state_prefix: { schema: Nullable(String({ maxLength: 256 })) },
    id: { schema: String(), create: 'never', update: false },
  },
  rules: {
    list: 'list_service_providers',
    show: 'get_service_provider',
    create: 'create_service_provider',
    update: 'update_service_provider',
    delete: 'delete_service_provider',
  },
  duplicate: values => `Duplicate entry found with ID ${values.id as string}`,
  async beforeCreate(_tx, _call, values) {
    values.enabled ??= false
    values.relay_state_prefix ??= 'ss:mem:'
  },
  afterCreate: tx => stale(tx, 'catalog'),
  afterUpdate: tx => stale(tx, 'catalog'),
  beforeDelete: tx => stale(tx, 'catalog'),
  async beforeUpdate(_tx, _call, _row, changes) {
    if (changes.relay_state_prefix === null) changes.relay_state_prefix = 'ss:mem:'
  },
}

// A protocol belongs to a provider: its id is unique only there, so its routes are written out.

const PROTOCOLS = `${FED}/identity_providers/:identity_provider_id/protocols`
const PROTOCOL_FIELDS = {
  id: { schema: String() },
  mapping_id: { schema: String() },
}

function protocolView(row: Row, call: Call) {
  const idp = selfUrl(call, `${FED}/identity_providers/${row.idp_id}`)
  const remote = row.remote_id_attribute === null ? {} : { remote_id_attribute: row.remote_id_attribute }
  return {
    id: row.id,
    mapping_id: row.mapping_id,
    ...remote,
    links: { self: `${idp}/protocols/${row.id}`, identity_provider: idp },
  }
}

async function mappingMust(db: Query, id: string): Promise<void> {
  const mapping = await db.selectFrom('keystone.mappings').select('id').where('id', '=', id).executeTakeFirst()
  if (!mapping) throw badRequest(`Invalid mapping id: ${id}`)
}

async function idpMust(call: Call): Promise<string> {
  const id = call.params.identity_provider_id!
  if (!(await nounFetch(identityProviders, call, id))) throw missing('Identity Provider', id)
  return id
}

async function protocolMust(call: Call): Promise<Row> {
  const { identity_provider_id, protocol_id } = call.params
  const row = await call.db
    .selectFrom('keystone.protocols')
    .selectAll()
    .where('idp_id', '=', identity_provider_id!)
    .where('id', '=', protocol_id!)
    .executeTakeFirst()
  if (!row) throw missing(`federated protocol ${protocol_id} for Identity Provider`, identity_provider_id!)
  return row as unknown as Row
}

const ProtocolBody = (mapping: ReturnType<typeof String>) =>
  Object({
    protocol: Object(
      { mapping_id: mapping, remote_id_attribute: Optional(Nullable(String({ maxLength: 64 }))) },
      { additionalProperties: false },
    ),
  })
const none = (call: Pick<Call, 'params'>) => ({ ...call.params })

const protocolRoutes = [
  route({
    method: 'GET',
    path: PROTOCOLS,
    policy: 'identity:list_protocols',
    policyTarget: none,
    async handle(call) {
      const idp = await idpMust(call)
      const all = call.db
        .selectFrom('keystone.protocols')
        .selectAll('keystone.protocols')
        .where('idp_id', '=', idp) as unknown as Rows
      const noun = { table: 'keystone.protocols', fields: PROTOCOL_FIELDS }
      const found = await pageOf(filtered(all, call.search, noun), call, noun)
      return listView(
        'protocols',
        found.rows.map(row => ({ ...protocolView(row, call), remote_id_attribute: row.remote_id_attribute, idp_id: row.idp_id })),
        found,
      )
    },
  }),
  route({
    method: 'PUT',
    path: `${PROTOCOLS}/:protocol_id`,
    policy: 'identity:create_protocol',
    policyTarget: none,
    success: 201,
    body: ProtocolBody(String({ maxLength: 64 })),
    async handle(call) {
      const idp_id = await idpMust(call)
      const { mapping_id, remote_id_attribute = null } = call.body.protocol
      const row = await call.env.db.tx(async tx => {
        await mappingMust(tx, mapping_id)
        return tx
          .insertInto('keystone.protocols')
          .values({ id: call.params.protocol_id!, idp_id, mapping_id, remote_id_attribute })
          .onConflict(on => on.doNothing())
          .returningAll()
          .executeTakeFirst()
      })
      if (!row)
        throw conflict(
          `Conflict occurred attempting to store federation_protocol - Duplicate entry found with ID ${call.params.protocol_id}.`,
        )
      return { protocol: protocolView(row as unknown as Row, call) }
    },
  }),
  route({
    method: 'GET',
    path: `${PROTOCOLS}/:protocol_id`,
    policy: 'identity:get_protocol',
    policyTarget: none,
    handle: async call => ({ protocol: protocolView(await protocolMust(call), call) }),
  }),
  route({
    method: 'PATCH',
    path: `${PROTOCOLS}/:protocol_id`,
    policy: 'identity:update_protocol',
    policyTarget: none,
    body: Object({
      protocol: Object(
        { mapping_id: Optional(String({ maxLength: 64 })), remote_id_attribute: Optional(Nullable(String({ maxLength: 64 }))) },
        { additionalProperties: false },
      ),
    }),
    async handle(call) {
      const before = await protocolMust(call)
      const sent = call.body.protocol
      const row = await call.env.db.tx(async tx => {
        if (sent.mapping_id !== undefined) await mappingMust(tx, sent.mapping_id)
        if (globalThis.Object.keys(sent).length === 0) return before
        return tx
          .updateTable('keystone.protocols')
          .set(sent)
          .where('idp_id', '=', before.idp_id as string)
          .where('id', '=', before.id)
          .returningAll()
          .executeTakeFirstOrThrow()
      })
      return { protocol: protocolView(row as unknown as Row, call) }
    },
  }),
  route({
    method: 'DELETE',
    path: `${PROTOCOLS}/:protocol_id`,
    policy: 'identity:delete_protocol',
    policyTarget: none,
    success: 204,
    async handle(call) {
      const row = await protocolMust(call)
      await call.env.db.tx(tx =>
        tx
          .deleteFrom('keystone.protocols')
          .where('idp_id', '=', row.idp_id as string)
          .where('id', '=', row.id)
          .execute(),
      )
    },
  }),
]

export const federationRoutes = [
  ...nounRoutes(identityProviders),
  ...protocolRoutes,
  ...nounRoutes(mappings),
  ...nounRoutes(serviceProviders),
]
