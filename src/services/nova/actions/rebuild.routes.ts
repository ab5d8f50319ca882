/** The action rebuild: a new guest in place of the old one, with the same id, addresses and ports. */
import { overQuota } from '#kit/fault.ts'
import type { Route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { addressText, Base64, Description, Flag, Fqdn, Hostname, Metadata, Name, NameOrNull } from '../fields.ts'
import { keypairFetch } from '../keypairs/store.ts'
import { neighbours } from '../neighbours.ts'
import { fits, projectLimits } from '../quotas/limits.ts'
import { DiskConfig, Personality, TrustedCerts } from '../servers/create.body.ts'
import { checkFlavorImage, keptImage, named, newPassword } from '../servers/create.ts'
import { serverShown } from '../servers/routes.ts'
import { type ServerValues, serverFetch } from '../servers/store.ts'
import { novaSettings } from '../settings.ts'
import { V } from '../versions.ts'
import { action } from './action.ts'
import { operationBegin } from './operation.ts'

const { Optional, since, until } = S

const rebuildBody = S.Object(
  {
    imageRef: S.Uuid(),
    name: Optional(Name()),
    adminPass: Optional(S.String()),
    metadata: Optional(Metadata()),
    'OS-DCF:diskConfig': Optional(DiskConfig()),
    accessIPv4: Optional(S.String({ format: 'ipv4' })),
    accessIPv6: Optional(S.String({ format: 'ipv6' })),
    // There is nothing to preserve but what bare metal would keep: taken, and of no effect, as in Nova's own drivers.
    preserve_ephemeral: Optional(Flag()),
    personality: until(V.noPersonality - 1, Optional(Personality())),
    description: since(V.description, Optional(Description())),
    key_name: since(V.rebuildKey, Optional(NameOrNull())),
    user_data: since(V.noPersonality, Optional(S.Nullable(Base64(65_535)))),
    trusted_image_certificates: since(V.trustedCerts, Optional(TrustedCerts())),
    hostname: S.byVersion(
      [0, until(0, Optional(Hostname()))],
      [V.hostname, Optional(Hostname())],
      [V.fqdn, Optional(Fqdn())],
    ) as unknown as ReturnType<typeof Optional<ReturnType<typeof Hostname>>>,
  },
  { additionalProperties: false },
)
type RebuildBody = S.Static<typeof rebuildBody>

/** The columns that the request changes, beside image and key. */
function plainChanges(asked: RebuildBody): ServerValues {
  const changes: ServerValues = {}
  const set = <K extends keyof ServerValues>(column: K, value: ServerValues[K] | undefined) => {
    if (value !== undefined) changes[column] = value
  }
  set('name', asked.name)
  set('metadata', asked.metadata)
  set('disk_config', asked['OS-DCF:diskConfig'])
  set('access_ip_v4', addressText(asked.accessIPv4))
  set('access_ip_v6', addressText(asked.accessIPv6))
  set('description', asked.description)
  set('user_data', asked.user_data)
  set('trusted_certs', asked.trusted_image_certificates)
  set('hostname', asked.hostname)
  return changes
}

const rebuild = action({
  key: 'rebuild',
  policy: 'os_compute_api:servers:rebuild',
  value: rebuildBody,
  async handle(call, asked) {
    const { ctx, env, db, params, target, version } = call
    const owner = { project_id: target.project_id, user_id: target.user_id }
    if (asked.trusted_image_certificates?.length) ctx.must('os_compute_api:servers:rebuild:trusted_certs', owner)
    const image = await named(neighbours.imageFetch(db, ctx, asked.imageRef), 'Cannot find image for rebuild')
    checkFlavorImage(ctx, target.flavor, image)
    const changes: ServerValues = { ...plainChanges(asked), image_ref: image.id, image: keptImage(image), fault: null }
    if (asked.key_name !== undefined) {
      const key =
        asked.key_name === null ? null : await named(keypairFetch(db, ctx.userId, asked.key_name), noKey(asked.key_name))
      Object.assign(changes, {
        key_name: key?.name ?? null,
        key_type: key?.type ?? null,
        public_key: key?.public_key ?? null,
      })
    }
    const limits = await projectLimits(db, env.config, target.project_id)
    if (!fits(limits.metadata_items, Object.keys(asked.metadata ?? {}).length))
      throw overQuota(`Maximum number of metadata items exceeds ${limits.metadata_items}`)
    if (asked.personality && !fits(limits.injected_files, asked.personality.length))
      throw overQuota('Personality file limit exceeded')
    const adminPassword = asked.adminPass ?? newPassword()
    const server = await env.db.tx(async tx => {
      const before = await operationBegin(tx, ctx, params.id!, 'rebuild', { adminPassword }, row => ({
        ...changes,
        wanted_power: row.vm_state === 'stopped' ? 'off' : 'running',
        ...(asked.personality && {
          build: { ...row.build, personality: asked.personality.map(f => ({ path: f.path ?? '', contents: f.contents ?? '' })) },
        }),
      }))
      return serverFetch(tx, ctx, before.id)
    })
    call.reply.headers.Location = call.self(`/servers/${server.id}`)
    const shown = await serverShown(call, server, { brief: version < V.cleanup, rebuilt: true })
    if (env.config.of(novaSettings).enable_instance_password) shown.server.adminPass = adminPassword
    return shown
  },
})

const noKey = (name: string): string => `Invalid key_name provided: ${name}.`

export const rebuildRoutes: Route[] = [rebuild]
