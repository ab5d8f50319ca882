import { randomUUID } from 'node:crypto'
import { isReferenced, sql } from '#kit/db/index.ts'
import { badRequest, conflict, notFound } from '#kit/fault.ts'
import { route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { bool, idField, shown, text } from '../api/attributes.ts'
import { type Row, resource } from '../api/resource.ts'
import { bodyUnder } from '../api/write.ts'
import { told } from '../faults.ts'

const flavorGone = (id: string) => notFound(`Flavor ${id} could not be found.`, { type: 'FlavorNotFound' })
const profileGone = (id: string) => notFound(`Service Profile ${id} could not be found.`, { type: 'ServiceProfileNotFound' })

/** What routers can be run by. */
const PROVIDERS = [{ service_type: 'L3_ROUTER_NAT', name: 'single_node', default: true }]
/** What flavors may be of: what there are providers for, and flavors themselves, whose service is always there. */
const TYPES = [...PROVIDERS.map(provider => provider.service_type), 'FLAVORS']

/** Flavors of services: what an operator offers under a name. */
export const flavors = resource({
  name: 'flavor',
  plural: 'flavors',
  path: '/flavors',
  table: 'neutron.flavors',
  standard: false,
  visible: null,
  gone: flavorGone,
  attributes: {
    id: idField,
    name: text('', 255),
    description: text('', 1024),
    service_type: text(undefined, 36, { create: 'required', update: false }),
    enabled: bool(true),
    service_profiles: {
      ...shown(S.Array(S.String()), { column: null, read: (_, row) => row.profiles }),
    },
  },
  columns: () => [
    sql<
      string[]
    >`array(select p.service_profile_id from neutron.flavor_profiles p where p.flavor_id = neutron.flavors.id order by 1)`.as(
      'profiles',
    ),
  ],
  async create({ tx, given }) {
    if (!TYPES.includes(given.service_type as string)) {
      throw badRequest(`Invalid Service Type ${told(given.service_type)}.`, { type: 'InvalidFlavorServiceType' })
    }
    const id = randomUUID()
    const { name, description, service_type, enabled } = given as Record<string, never>
    await tx.insertInto('neutron.flavors').values({ id, name, description, service_type, enabled }).execute()
    return id
  },
  async remove({ tx, row }) {
    try {
      await tx
        .deleteFrom('neutron.flavors')
        .where('id', '=', row.id as string)
        .execute()
    } catch (error) {
      throw isReferenced(error)
        ? conflict(`Flavor ${String(row.id)} is used by some service instance.`, { type: 'FlavorInUse' })
        : error
    }
  },
})

/** Profiles: what a flavor is made of. */
export const profiles = resource({
  name: 'service_profile',
  plural: 'service_profiles',
  path: '/service_profiles',
  table: 'neutron.service_profiles',
  standard: false,
  visible: null,
  gone: profileGone,
  attributes: {
    id: idField,
    description: text('', 1024),
    driver: text('', 255),
    enabled: bool(true),
    metainfo: text('', 4096),
  },
  async create({ tx, given }) {
    if (!given.driver && !given.metainfo) {
      throw badRequest('Service Profile needs either a driver or metainfo.', { type: 'ServiceProfileEmpty' })
    }
    if (given.driver) {
      throw notFound(`Service Profile driver ${told(given.driver)} could not be found.`, {
        type: 'ServiceProfileDriverNotFound',
      })
    }
    const id = randomUUID()
    const { description, driver, enabled, metainfo } = given as Record<string, never>
    await tx.insertInto('neutron.service_profiles').values({ id, description, driver, enabled, metainfo }).execute()
    return id
  },
  async remove({ tx, row }) {
    try {
      await tx
        .deleteFrom('neutron.service_profiles')
        .where('id', '=', row.id as string)
        .execute()
    } catch (error) {
      throw isReferenced(error)
        ? conflict(`Service Profile ${String(row.id)} is used by some service instance.`, { type: 'ServiceProfileInUse' })
        : error
    }
  },
})

export const flavorRoutes = [
  route({
    method: 'POST',
    path: '/flavors/:id/service_profiles',
    success: 201,
    policy: 'create_flavor_service_profile',
    async handle(call) {
      const profile = told(bodyUnder(call, 'service_profile').id)
      return call.env.db.tx(async tx => {
        const flavor = await tx
          .selectFrom('neutron.flavors')
          .selectAll()
          .where('id', '=', call.params.id!)
          .forUpdate()
          .executeTakeFirst()
        if (!flavor) throw flavorGone(call.params.id!)
        if (!(await tx.selectFrom('neutron.service_profiles').select('id').where('id', '=', profile).executeTakeFirst()))
          throw profileGone(profile)
        const { numInsertedOrUpdatedRows } = await tx
          .insertInto('neutron.flavor_profiles')
          .values({ flavor_id: flavor.id, service_profile_id: profile })
          .onConflict(on => on.doNothing())
          .executeTakeFirst()
        if (numInsertedOrUpdatedRows === 0n) {
          throw conflict(`Flavor ${flavor.id} and service profile ${profile} are bound already.`, {
            type: 'FlavorServiceProfileBindingExists',
          })
        }
        const rows = await tx
          .selectFrom('neutron.flavor_profiles')
          .select('service_profile_id')
          .where('flavor_id', '=', flavor.id)
          .execute()
        return { service_profile: { ...(flavor as Row), service_profiles: rows.map(row => row.service_profile_id) } }
      })
    },
  }),
  route({
    method: 'DELETE',
    path: '/flavors/:id/service_profiles/:profile',
    success: 204,
    policy: 'delete_flavor_service_profile',
    async handle({ db, params }) {
      const { numDeletedRows } = await db
        .deleteFrom('neutron.flavor_profiles')
        .where('flavor_id', '=', params.id!)
        .where('service_profile_id', '=', params.profile!)
        .executeTakeFirst()
      if (numDeletedRows === 0n) {
        throw notFound(`Service Profile ${params.profile} is not associated with flavor ${params.id}.`, {
          type: 'FlavorServiceProfileBindingNotFound',
        })
      }
    },
  }),
  route({
    method: 'GET',
    path: '/flavors/:id/next_providers',
    policy: 'get_flavor_service_profile',
    async handle({ db, params }) {
      const flavor = await db.selectFrom('neutron.flavors').selectAll().where('id', '=', params.id!).executeTakeFirst()
      if (!flavor) throw flavorGone(params.id!)
      if (!flavor.enabled) throw badRequest('Flavor is not enabled.', { type: 'FlavorDisabled' })
      const rows = await db
        .selectFrom('neutron.flavor_profiles as b')
        .innerJoin('neutron.service_profiles as p', 'p.id', 'b.service_profile_id')
        .select('p.driver')
        .where('b.flavor_id', '=', flavor.id)
        .where('p.enabled', '=', true)
        .execute()
      if (rows.length === 0)
        throw notFound('No service profile is associated with the flavor.', { type: 'FlavorServiceProfileBindingNotFound' })
      return { next_providers: rows.map(({ driver }) => ({ provider: PROVIDERS[0]!.name, driver })) }
    },
  }),
  route({
    method: 'GET',
    path: '/service-providers',
    policy: 'get_service_provider',
    handle: ({ search }) => ({
      service_providers: PROVIDERS.filter(
        provider => !search.has('service_type') || search.getAll('service_type').includes(provider.service_type),
      ),
    }),
  }),
]
