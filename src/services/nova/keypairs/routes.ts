/** /os-keypairs. */
import type { Context } from '#kit/context.ts'
import { type Route, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { PAGING, pageOf, query, TEXT } from '../fields.ts'
import { projectLimits } from '../quotas/limits.ts'
import { novaSettings } from '../settings.ts'
import { V } from '../versions.ts'
import { nextLink } from '../wire.ts'
import { makeCertificate, makeSshKey, sshFingerprint, x509Fingerprint } from './keys.ts'
import { type Keypair, keypairCreate, keypairDelete, keypairFetch, keypairList } from './store.ts'

const NAME = (pattern: string) => S.String({ minLength: 1, maxLength: 255, pattern: `^(?! )${pattern}+(?<! )$` })
const TYPE = S.OneOf('ssh', 'x509')
const CLOSED = { additionalProperties: false }

const createBody = S.Object(
  {
    keypair: S.Object(
      {
        name: S.byVersion([0, NAME('[_\\- a-zA-Z0-9]')], [V.keypairImportOnly, NAME('[_\\-@. a-zA-Z0-9]')]),
        type: S.since(V.keypairType, S.Optional(TYPE)),
        public_key: S.byVersion(
          [0, S.Optional(S.String()) as unknown as ReturnType<typeof S.String>],
          [V.keypairImportOnly, S.String()],
        ),
        user_id: S.since(V.keypairUser, S.Optional(S.String())),
      },
      CLOSED,
    ),
  },
  CLOSED,
)

const showQuery = S.byVersion([0, query({})], [V.keypairUser, query({ user_id: TEXT })])
const listQuery = S.byVersion(
  [0, query({})],
  [V.keypairUser, query({ user_id: TEXT })],
  [V.keypairPages, query({ user_id: TEXT, ...PAGING })],
)

interface Asking {
  ctx: Context
  search: URLSearchParams
  version: number
}
/** Whose key pairs are meant: the caller's, or another user's where the version knows that. The rule decides. */
function userOf({ ctx, search, version }: Asking, verb: string): string {
  const user = (version >= V.keypairUser && search.get('user_id')) || ctx.userId
  ctx.must(`os_compute_api:os-keypairs:${verb}`, { user_id: user })
  return user
}

const typed = (key: Keypair, version: number): object => (version >= V.keypairType ? { type: key.type } : {})
const brief = (key: Keypair, version: number): object => ({
  name: key.name,
  public_key: key.public_key,
  fingerprint: key.fingerprint,
  ...typed(key, version),
})

export const keypairRoutes: Route[] = [
  route({
    method: 'GET',
    path: '/os-keypairs',
    policy: null,
    query: listQuery,
    async handle(call) {
      const { db, env, search, version } = call
      const user = userOf(call, 'index')
      const paged = version >= V.keypairPages
      const max = env.config.of(novaSettings).max_limit
      const page = paged ? pageOf(search, max) : { limit: 1_000_000, marker: null }
      const keys = await keypairList(db, user, page)
      const more = paged && keys.length > 0 && keys.length === page.limit
      return {
        keypairs: keys.map(key => ({ keypair: brief(key, version) })),
        ...(more ? { keypairs_links: nextLink(call, '/os-keypairs', keys.at(-1)!.name) } : {}),
      }
    },
  }),
  route({
    method: 'GET',
    path: '/os-keypairs/:name',
    policy: null,
    query: showQuery,
    async handle(call) {
      const key = await keypairFetch(call.db, userOf(call, 'show'), call.params.name!)
      return {
        keypair: {
          ...brief(key, call.version),
          user_id: key.user_id,
          id: key.id,
          created_at: `${key.created_at.toISOString().slice(0, -1)}000`,
          deleted: false,
          deleted_at: null,
          updated_at: null,
        },
      }
    },
  }),
  route({
    method: 'POST',
    path: '/os-keypairs',
    policy: null,
    body: createBody,
    async handle({ ctx, env, body: { keypair }, version, reply }) {
      const user = keypair.user_id || ctx.userId
      ctx.must('os_compute_api:os-keypairs:create', { user_id: user })
      const type = keypair.type ?? 'ssh'
      const given = keypair.public_key as string | undefined
      const made = given !== undefined ? undefined : type === 'ssh' ? await makeSshKey() : await makeCertificate(user)
      const publicKey = given ?? made!.publicKey
      const fingerprint = type === 'ssh' ? sshFingerprint(publicKey) : x509Fingerprint(publicKey)
      const key = await env.db.tx(async tx => {
        const limits = await projectLimits(tx, env.config, ctx.projectId ?? '', user)
        return keypairCreate(
          tx,
          { user_id: user, name: keypair.name, type, fingerprint, public_key: publicKey },
          limits.key_pairs,
        )
      })
      reply.status = version >= V.keypairType ? 201 : 200
      return {
        keypair: { ...(made ? { private_key: made.privateKey } : {}), ...brief(key, version), user_id: key.user_id },
      }
    },
  }),
  route({
    method: 'DELETE',
    path: '/os-keypairs/:name',
    policy: null,
    query: showQuery,
    async handle(call) {
      const user = userOf(call, 'delete')
      await call.env.db.tx(tx => keypairDelete(tx, user, call.params.name!))
      call.reply.status = call.version >= V.keypairType ? 204 : 202
    },
  }),
]
