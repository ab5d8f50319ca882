/** The actions createImage and createBackup. */
import type { Context } from '#kit/context.ts'
import type { Tx } from '#kit/db/index.ts'
import { overQuota } from '#kit/fault.ts'
import type { Call, Route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { sagaStart } from '#kit/saga/index.ts'
import { Metadata, Name, Whole, wholeOf } from '../fields.ts'
import { neighbours } from '../neighbours.ts'
import { fits, projectLimits } from '../quotas/limits.ts'
import { type Server, serverResource, serverTake, serverUpdate } from '../servers/store.ts'
import { V } from '../versions.ts'
import { action } from './action.ts'
import { mayBegin } from './operation.ts'
import { snapshotServer } from './snapshot.saga.ts'
import { actionsBegin } from './store.ts'

const CLOSED = { additionalProperties: false }
const FROM = ['active', 'stopped', 'paused', 'suspended']
/** Properties of an image that are of no meaning for one that is made of a server. */
const OWN = /^(img_signature|image_type$|backup_type$|instance_uuid$|cache_in_nova$|bittorrent$|img_block_device_mapping$)/

/** The image of a server, without its bytes. Returns its id. */
export function imageOf(
  tx: Tx,
  ctx: Pick<Context, 'userId'>,
  server: Server,
  name: string,
  more: Record<string, string>,
): Promise<string> {
  const inherited = Object.entries(server.image?.properties ?? {}).filter(([key]) => !OWN.test(key))
  return neighbours.imageNew(tx, {
    name,
    projectId: server.project_id,
    format: 'qcow2',
    minDisk: server.flavor.root_gb,
    minRam: server.image?.minRam ?? 0,
    properties: {
      ...Object.fromEntries(inherited),
      image_type: 'snapshot',
      instance_uuid: server.id,
      user_id: ctx.userId,
      owner_id: server.project_id,
      ...(server.image_ref ? { base_image_ref: server.image_ref } : {}),
      ...more,
    },
  })
}

interface Taking {
  action: 'createImage' | 'createBackup'
  name: string
  during: string
  properties: Record<string, string>
  rotation?: { type: string; keep: number }
}

/** Begins to take an image of the server. Returns the image's id. */
async function take(call: Pick<Call, 'ctx' | 'env' | 'params'>, taking: Taking): Promise<string> {
  const { ctx, env, params } = call
  return env.db.tx(async tx => {
    const server = await serverTake(tx, ctx, params.id!)
    mayBegin(ctx, server, { action: taking.action, from: FROM })
    const limits = await projectLimits(tx, env.config, server.project_id)
    if (!fits(limits.metadata_items, Object.keys(taking.properties).length)) throw overQuota('Image metadata limit exceeded')
    const imageId = await imageOf(tx, ctx, server, taking.name, taking.properties)
    await actionsBegin(tx, ctx, taking.action, [server])
    await serverUpdate(tx, server.id, { task_state: taking.during })
    const args = { serverId: server.id, requestId: ctx.requestId, imageId, rotation: taking.rotation }
    await sagaStart(tx, snapshotServer, args, { resource: serverResource(server.id) })
    return imageId
  })
}

/** Where the image is: in a header at first, in the body from 2.45 on. */
function answer({ reply, self, version }: Pick<Call, 'reply' | 'self' | 'version'>, imageId: string): unknown {
  if (version >= V.imageIdInBody) return { image_id: imageId }
  reply.headers.Location = self(`/images/${imageId}`)
  return undefined
}

export const snapshotRoutes: Route[] = [
  action({
    key: 'createImage',
    policy: 'os_compute_api:servers:create_image',
    value: S.Object({ name: Name(), metadata: S.Optional(Metadata()) }, CLOSED),
    handle: async (call, { name, metadata = {} }) =>
      answer(call, await take(call, { action: 'createImage', name, during: 'image_snapshot', properties: metadata })),
  }),
  action({
    key: 'createBackup',
    policy: 'os_compute_api:os-create-backup',
    value: S.Object({ name: Name(), backup_type: S.String(), rotation: Whole(0), metadata: S.Optional(Metadata()) }, CLOSED),
    async handle(call, { name, backup_type, rotation, metadata = {} }) {
      const keep = wholeOf(rotation, 'rotation', 0)
      const imageId = await take(call, {
        action: 'createBackup',
        name,
        during: 'image_backup',
        properties: { ...metadata, image_type: 'backup', backup_type },
        rotation: { type: backup_type, keep },
      })
      // With a rotation of 0 the image itself is one of those that go: there is nothing to point to.
      return keep === 0 ? undefined : answer(call, imageId)
    },
  }),
]
