/** Staging of bytes, and imports. */
import { randomUUID } from 'node:crypto'
import { json, sql, type Tx } from '#kit/db/index.ts'
import { badRequest, conflict, gone } from '#kit/fault.ts'
import { type Call, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { sagaStart } from '#kit/saga/index.ts'
import { catalogFor } from '#services/keystone/index.ts'
import { fileRemove, folderPlace } from '../files/index.ts'
import { announcedBytes, refuseFormless, uploadBegin, uploadUndo } from '../images/data.routes.ts'
import { UUID_PATTERN } from '../images/fields.ts'
import { receive } from '../images/receive.ts'
import { imageFetch } from '../images/store.ts'
import type { Image } from '../images/view.ts'
import { quotaEnforce } from '../quotas.ts'
import { glanceSettings } from '../settings.ts'
import { stagingFolder, storesOf } from '../stores.ts'
import { type ImportArgs, imageImport, type Source, taskSet } from './import.saga.ts'
import { tokenKeep } from './remote.ts'
import { uriAllowed } from './uri.ts'

export const imageStage = route({
  method: 'PUT',
  path: '/images/:id/stage',
  success: 204,
  raw: true,
  policy: 'modify_image',
  target: ({ db, ctx, params }) => imageFetch(db, ctx, params.id!),
  async handle({ env, target: image, stream, headers }) {
    const announced = announcedBytes({ headers })
    if (image.status !== 'queued') throw conflict(`Image status transition from ${image.status} to uploading is not allowed`)
    const file = randomUUID()
    const folder = stagingFolder(env)
    await uploadBegin(env, image, file, 'uploading')
    try {
      const { size } = await receive(env, image, stream, { places: [folderPlace(folder)], file, announced, inspect: false })
      const row = await env.db.read
        .updateTable('glance.images')
        .set({ upload: null, upload_until: null, stage: file, stage_size: size, message: null, updated_at: sql<Date>`now()` })
        .where('id', '=', image.id)
        .where('upload', '=', file)
        .returning('id')
        .executeTakeFirst()
      if (!row) throw gone(`The image ${image.id} was deleted while its data arrived.`)
    } catch (error) {
      await fileRemove(folder, file)
      await uploadUndo(env, image.id, file, 'queued', error)
      throw error
    }
  },
})

const Body = S.Object({
  method: S.Object({
    name: S.String(),
    uri: S.Optional(S.String()),
    glance_image_id: S.Optional(S.String()),
    glance_region: S.Optional(S.String()),
    glance_service_interface: S.Optional(S.String()),
  }),
  stores: S.Optional(S.Array(S.String())),
  all_stores: S.Optional(S.Boolean()),
  all_stores_must_succeed: S.Optional(S.Boolean()),
})
type Asked = S.Static<typeof Body>

/** What an import of each method needs of the image. Throws conflict. */
function refuseStatus(method: Source['method'], image: Image): void {
  if (method === 'copy-image') {
    if (image.status !== 'active') throw conflict('Only images with status active can be targeted for copying')
  } else if (image.status === 'active') throw conflict('Image with status active cannot be target for import')
  else if (method === 'glance-direct' && (image.status !== 'uploading' || !image.stage))
    throw conflict("Image needs to be staged before 'glance-direct' method can be used")
  else if (method !== 'glance-direct' && image.status !== 'queued')
    throw conflict(`Image needs to be in 'queued' state to use '${method}' method`)
  for (const name of ['container_format', 'disk_format'] as const) {
    if (!image[name]) throw conflict(`'${name}' needs to be set before import`)
  }
}

async function sourceOf({ env, ctx }: Pick<Call, 'env' | 'ctx'>, { method }: Asked): Promise<Source> {
  const { enabled_import_methods: enabled } = env.config.of(glanceSettings)
  if (!enabled.includes(method.name)) throw badRequest(`Unknown import method name '${method.name}'.`)
  switch (method.name) {
    case 'glance-direct':
    case 'copy-image':
      return { method: method.name }
    case 'web-download':
      if (!method.uri || !URL.canParse(method.uri)) throw badRequest("'uri' needs to be set for web-download import method")
      uriAllowed(env, new URL(method.uri))
      return { method: 'web-download', uri: method.uri }
    case 'glance-download': {
      const { glance_region: region, glance_image_id: imageId, glance_service_interface: face = 'public' } = method
      if (region === undefined) throw badRequest("'glance_region' needs to be set for glance-download import method")
      if (imageId === undefined) throw badRequest("'glance_image_id' needs to be set for glance-download import method")
      if (!new RegExp(UUID_PATTERN).test(imageId)) throw badRequest(`Remote image id does not look like a UUID: ${imageId}`)
      const catalog = await catalogFor(env, { projectId: ctx.projectId, userId: ctx.userId } as never)
      const endpoints = catalog.find(entry => entry.type === 'image')?.endpoints ?? []
      const found = endpoints.find(e => e.interface === face && e.region_id === region)
      return { method: 'glance-download', endpoint: found?.url ?? null, region, face, imageId }
    }
    default:
      throw badRequest(`Unknown import method name '${method.name}'.`)
  }
}

/** The stores that an import is for. Throws conflict for one that is not there. */
function storesAsked({ env, headers }: Pick<Call, 'env' | 'headers'>, asked: Asked): string[] {
  const known = storesOf(env).map(s => s.id)
  const header = headers['x-image-meta-store'] as string | undefined
  if (asked.all_stores && (asked.stores || header)) throw badRequest('All_stores parameter cannot be used with stores parameter')
  if (asked.stores && header) throw badRequest("Stores parameter and x-image-meta-store header can't be both specified")
  if (asked.all_stores) return known
  const wanted = asked.stores ?? (header ? [header] : [known[0]!])
  for (const id of wanted) if (!known.includes(id)) throw conflict(`Unknown store '${id}'. Stores are: ${known.join(', ')}.`)
  return [...new Set(wanted)]
}

export const imageImportRoute = route({
  method: 'POST',
  path: '/images/:id/import',
  success: 202,
  policy: null,
  target: ({ db, ctx, params }) => imageFetch(db, ctx, params.id!),
  body: Body,
  async handle(call) {
    const { env, ctx, target: image, body, headers } = call
    refuseStatus(body.method.name as Source['method'], image)
    ctx.must(body.method.name === 'copy-image' ? 'copy_image' : 'modify_image', image)
    const source = await sourceOf(call, body)
    let stores = storesAsked(call, body)
    if (source.method === 'copy-image') {
      const there = new Set(image.locations.map(l => l.store))
      const again = stores.find(id => there.has(id))
      if (again && !body.all_stores) throw badRequest(`Image is already present at store '${again}'`)
      stores = stores.filter(id => !there.has(id))
      if (stores.length === 0) return nothingToCopy(call, image.id)
    }
    const allMustSucceed = body.all_stores_must_succeed ?? true
    const taskId = randomUUID()
    if (source.method === 'glance-download') tokenKeep(taskId, headers['x-auth-token'] as string)
    await env.db.tx(async tx => {
      const input = { image_id: image.id, import_req: body, backend: stores }
      await importStart(tx, call, image.id, { taskId, source, stores, allMustSucceed }, input)
    })
  },
})

/** The image is in every store already: an import that has ended as it began. */
async function nothingToCopy({ env, ctx, body }: Call<unknown, Asked>, id: string): Promise<undefined> {
  const taskId = randomUUID()
  await env.db.tx(async tx => {
    const image = await imageFetch(tx, ctx, id, { lock: true })
    const input = { image_id: id, import_req: body, backend: [] }
    await taskInsert(tx, ctx, { id: taskId, type: 'api_image_import', imageId: id, input })
    await taskSet(tx, taskId, { status: 'success', result: { image_id: id } })
    // An import that runs tells of itself.
    if (image.import?.running) return
    const state = json({ task: taskId, to: [], failed: [], running: false })
    await tx.updateTable('glance.images').set({ import: state }).where('id', '=', id).execute()
  })
}

/** Starts an import and its task. The image's row says so from here on. Throws what forbids it now. */
export async function importStart(
  tx: Tx,
  { ctx }: Pick<Call, 'ctx'>,
  id: string,
  asked: Pick<ImportArgs, 'taskId' | 'source' | 'stores' | 'allMustSucceed'>,
  input: Record<string, unknown>,
  type: 'api_image_import' | 'import' = 'api_image_import',
): Promise<void> {
  const image = await imageFetch(tx, ctx, id, { lock: true })
  const { method } = asked.source
  refuseStatus(method, image)
  refuseFormless(image)
  if (image.upload) throw conflict(`New operation on image '${id}' is not permitted as prior operation is still in progress`)
  await quotaEnforce(tx, image.owner, {
    image_size_total: 0,
    ...(method !== 'copy-image' && { image_count_uploading: image.status === 'uploading' ? 0 : 1 }),
  })
  const file = randomUUID()
  await tx
    .updateTable('glance.images')
    .set({
      ...(method !== 'copy-image' && { status: 'importing' }),
      upload: file,
      import: json({ task: asked.taskId, to: asked.stores, failed: [], running: true }),
      updated_at: sql<Date>`now()`,
    })
    .where('id', '=', id)
    .execute()
  await taskInsert(tx, ctx, { id: asked.taskId, type, imageId: id, input })
  await sagaStart(tx, imageImport, { ...asked, imageId: id, file }, { resource: `glance.image:${id}` })
}

/** Writes a task that waits to begin. */
export async function taskInsert(
  tx: Tx,
  ctx: Call['ctx'],
  {
    id,
    type,
    imageId,
    input,
  }: { id: string; type: 'api_image_import' | 'import' | 'location_import'; imageId: string; input: Record<string, unknown> },
): Promise<void> {
  await tx
    .insertInto('glance.tasks')
    .values({
      id,
      type,
      status: 'pending',
      owner: ctx.projectId,
      input: json(input),
      image_id: imageId,
      user_id: ctx.userId,
      request_id: ctx.requestId,
    })
    .execute()
}
