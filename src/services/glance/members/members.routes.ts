/** Members: the projects that a shared image is shared with, and what each of them thinks of it. */
import type { Context } from '#kit/context.ts'
import { attempt, isDuplicate, type Query, type Selectable } from '#kit/db/index.ts'
import { conflict, forbidden, notFound, tooLarge } from '#kit/fault.ts'
import { route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { imageFetch } from '../images/store.ts'
import { type Image, when } from '../images/view.ts'
import { glanceSettings } from '../settings.ts'
import type { MembersTable } from '../tables.ts'

type Member = Selectable<MembersTable>

const memberView = (m: Member) => ({
  image_id: m.image_id,
  member_id: m.member_id,
  status: m.status,
  created_at: when(m.created_at),
  updated_at: when(m.updated_at),
  schema: '/v2/schemas/member',
})

/** An image that has members. Throws notFound, and forbidden when it is not shared. */
async function sharedFetch(db: Query, ctx: Context, id: string, lock = false): Promise<Image & { member_id: string | null }> {
  const image = await imageFetch(db, ctx, id, { lock })
  if (image.visibility !== 'shared') throw forbidden('Only shared images have members.')
  return image
}

const missing = (image: string, member: string): Error =>
  notFound(`${member} not found in the member list of the image ${image}.`)

async function memberFetch(db: Query, ctx: Context, image: Image, id: string): Promise<Member> {
  const row = await db
    .selectFrom('glance.members')
    .selectAll()
    .where('image_id', '=', image.id)
    .where('member_id', '=', id)
    .executeTakeFirst()
  // A member sees itself alone.
  const sees = ctx.isAdmin || image.owner === ctx.projectId || id === ctx.projectId
  if (!row || !sees) throw missing(image.id, id)
  return row
}

export const memberRoutes = [
  route({
    method: 'GET',
    path: '/images/:id/members',
    policy: 'get_members',
    target: ({ db, ctx, params }) => sharedFetch(db, ctx, params.id!),
    async handle({ db, ctx, target: image }) {
      let query = db.selectFrom('glance.members').selectAll().where('image_id', '=', image.id)
      if (!ctx.isAdmin && image.owner !== ctx.projectId) query = query.where('member_id', '=', ctx.projectId ?? '')
      const rows = await query.orderBy('created_at').orderBy('member_id').execute()
      return { members: rows.map(memberView), schema: '/v2/schemas/members' }
    },
  }),
  route({
    method: 'POST',
    path: '/images/:id/members',
    policy: 'add_member',
    target: ({ db, ctx, params }) => sharedFetch(db, ctx, params.id!),
    body: S.Object({ member: S.String({ minLength: 1, maxLength: 255 }) }),
    async handle({ env, ctx, params, body: { member } }) {
      const most = env.config.of(glanceSettings).image_member_quota
      return env.db.tx(async tx => {
        const image = await sharedFetch(tx, ctx, params.id!, true)
        const { count } = await tx
          .selectFrom('glance.members')
          .select(eb => eb.fn.countAll<number>().as('count'))
          .where('image_id', '=', image.id)
          .executeTakeFirstOrThrow()
        if (most >= 0 && Number(count) >= most) throw tooLarge(`An image is shared with at most ${most} projects.`)
        try {
          const row = await attempt(tx, () =>
            tx
              .insertInto('glance.members')
              .values({ image_id: image.id, member_id: member, status: 'pending' })
              .returningAll()
              .executeTakeFirstOrThrow(),
          )
          return memberView(row)
        } catch (error) {
          if (isDuplicate(error)) throw conflict(`Member ${member} is duplicated for image ${image.id}`, { cause: error })
          throw error
        }
      })
    },
  }),
  route({
    method: 'GET',
    path: '/images/:id/members/:member',
    policy: 'get_member',
    target: ({ db, ctx, params }) => sharedFetch(db, ctx, params.id!),
    handle: async ({ db, ctx, target: image, params }) => memberView(await memberFetch(db, ctx, image, params.member!)),
  }),
  route({
    method: 'PUT',
    path: '/images/:id/members/:member',
    policy: 'modify_member',
    target: ({ db, ctx, params }) => sharedFetch(db, ctx, params.id!),
    // Whom it concerns decides, not who owns it.
    policyTarget: ({ target, params }) => ({
      ...target,
      member_id: target.owner === params.member ? null : params.member,
    }),
    body: S.Object({ status: S.OneOf('pending', 'accepted', 'rejected') }),
    async handle({ env, ctx, params, target: image, body: { status } }) {
      return env.db.tx(async tx => {
        await memberFetch(tx, ctx, image, params.member!)
        const row = await tx
          .updateTable('glance.members')
          .set({ status, updated_at: new Date() })
          .where('image_id', '=', image.id)
          .where('member_id', '=', params.member!)
          .returningAll()
          .executeTakeFirst()
        if (!row) throw missing(image.id, params.member!)
        return memberView(row)
      })
    },
  }),
  route({
    method: 'DELETE',
    path: '/images/:id/members/:member',
    success: 204,
    policy: 'delete_member',
    target: ({ db, ctx, params }) => sharedFetch(db, ctx, params.id!),
    async handle({ env, params, target: image }) {
      const gone = await env.db.tx(tx =>
        tx
          .deleteFrom('glance.members')
          .where('image_id', '=', image.id)
          .where('member_id', '=', params.member!)
          .returning('member_id')
          .executeTakeFirst(),
      )
      if (!gone) throw missing(image.id, params.member!)
    },
  }),
]
