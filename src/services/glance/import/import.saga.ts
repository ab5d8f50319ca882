/**
 * An import: takes bytes from the staging area, a URL, another image service or another store, and puts them into stores. The file's name is chosen before
 * the saga starts and the image's row names it, so what a killed import left is found and removed.
 *
 * What users see of it: the image's status and its `os_glance_…` properties, and a task.
 */
import { afterCommit, json, sql, type Tx } from '#kit/db/index.ts'
import { gone } from '#kit/fault.ts'
import { type Run, type SagaFailure, saga } from '#kit/saga/index.ts'
import type { Env } from '#kit/service.ts'
import { httpRead } from '../files/http.ts'
import { fileRead, fileRemove } from '../files/index.ts'
import { filled } from '../images/data.routes.ts'
import { type Received, receive } from '../images/receive.ts'
import { imageUpdate } from '../images/store.ts'
import type { Image } from '../images/view.ts'
import { locationsOpen, placeOf, stagingFolder, storesOf } from '../stores.ts'
import type { ImageStatus, Location } from '../tables.ts'
import { type Remote, type RemoteFacts, remoteOpen, remoteShow, tokenForget } from './remote.ts'
import { uriAllowed } from './uri.ts'

export type Source =
  | { method: 'glance-direct' }
  | { method: 'web-download'; uri: string }
  | { method: 'copy-image' }
  | ({ method: 'glance-download' } & Remote)

export interface ImportArgs {
  imageId: string
  taskId: string
  file: string
  source: Source
  stores: string[]
  /** Whether one store that fails undoes the import. */
  allMustSucceed: boolean
}

interface Got extends Pick<Received, 'size' | 'md5' | 'sha512'> {
  virtualSize: number | null
  stores: string[]
  /** What came with the bytes. */
  remote: RemoteFacts | null
}

/** The longest that an import may take, in seconds. */
const DEADLINE = 24 * 3600

export const imageImport = saga<ImportArgs>('glance.image.import', async (run, args) => {
  run.ifUndone((tx, error) => importUndone(tx, args, error))
  await run.step('begin', tx => taskSet(tx, args.taskId, { status: 'processing' }))
  const got = await run.act(
    'fetch',
    ({ signal }) => bytesFetch(run.env, args, signal),
    () => filesRemove(run.env, args),
    { deadline: DEADLINE, retries: 0 },
  )
  const stage = await run.step('report', tx => importDone(tx, args, got))
  await run.act('tidy', () => tidy(run, args, got.stores, stage))
})

async function bytesFetch(env: Env, args: ImportArgs, signal: AbortSignal): Promise<Got> {
  const image = await env.db.read.selectFrom('glance.images').selectAll().where('id', '=', args.imageId).executeTakeFirst()
  if (!image) throw gone(`The image ${args.imageId} was deleted.`)
  const stores = storesOf(env).filter(s => args.stores.includes(s.id))
  const places = new Map(stores.map(store => [placeOf(env, store), store]))
  const failed: string[] = []
  const { source } = args
  const remote = source.method === 'glance-download' ? await remoteShow(source, args.taskId, signal) : null
  const received = await receive(env, { ...image, ...remote?.formats }, await sourceOpen(env, image, args, signal), {
    places: [...places.keys()],
    file: args.file,
    inspect: source.method !== 'copy-image',
    signal,
    ...(!args.allMustSucceed && {
      onPlaceLost: (place, error) => {
        const store = places.get(place)!
        failed.push(store.id)
        env.log.warn({ err: error, image: image.id, store: store.id }, 'an image cannot be put into a store')
      },
    }),
  })
  return {
    size: received.size,
    md5: received.md5,
    sha512: received.sha512,
    virtualSize: received.found.virtualSize ?? null,
    remote,
    stores: stores.map(s => s.id).filter(id => !failed.includes(id)),
  }
}

async function sourceOpen(
  env: Env,
  image: Image,
  { source, taskId }: ImportArgs,
  signal: AbortSignal,
): Promise<AsyncIterable<Buffer>> {
  switch (source.method) {
    case 'glance-direct':
      if (!image.stage) throw gone('The staged data is gone.')
      return fileRead(stagingFolder(env), image.stage)
    case 'web-download':
      return httpRead(source.uri, undefined, { allow: at => uriAllowed(env, at), signal })
    case 'copy-image':
      return locationsOpen(env, image.locations)
    case 'glance-download':
      return remoteOpen(source, taskId, signal)
  }
}

async function filesRemove(env: Env, args: ImportArgs): Promise<void> {
  for (const store of storesOf(env)) if (args.stores.includes(store.id)) await placeOf(env, store).remove(args.file)
}

/** The image has its bytes. Returns the staged file that is not needed any more. Throws gone when the image was deleted meanwhile. */
async function importDone(tx: Tx, args: ImportArgs, got: Got): Promise<string | null> {
  const image = await tx.selectFrom('glance.images').selectAll().where('id', '=', args.imageId).forUpdate().executeTakeFirst()
  if (!image || image.upload !== args.file) throw gone(`The image ${args.imageId} was deleted.`)
  const state = {
    task: args.taskId,
    to: [],
    failed: args.stores.filter(id => !got.stores.includes(id)),
    running: false,
  }
  const places = got.stores.map((store): Location => ({ store, file: args.file, url: null, metadata: {} }))
  if (args.source.method === 'copy-image') {
    await imageUpdate(tx, image.id, { locations: [...image.locations, ...places], upload: null, import: state })
  } else {
    const { locations: _, ...facts } = filled(
      { ...got, found: { format: '', virtualSize: got.virtualSize ?? undefined } },
      [],
      args.file,
    )
    const properties = { ...image.properties, ...got.remote?.properties }
    const formats = got.remote?.formats
    await imageUpdate(tx, image.id, {
      ...facts,
      ...formats,
      locations: places,
      properties,
      import: state,
      stage: null,
      stage_size: null,
    })
  }
  await taskSet(tx, args.taskId, { status: 'success', result: { image_id: image.id } })
  return image.stage
}

/** Removes what a store that failed may hold of the file, and the staged bytes. */
async function tidy(run: Run, args: ImportArgs, kept: string[], stage: string | null): Promise<void> {
  for (const store of storesOf(run.env)) {
    if (args.stores.includes(store.id) && !kept.includes(store.id)) await placeOf(run.env, store).remove(args.file)
  }
  if (stage) await fileRemove(stagingFolder(run.env), stage)
  tokenForget(args.taskId)
}

/** Where an import that failed leaves the image: what is staged is still there. */
const BACK: Record<Source['method'], ImageStatus> = {
  'glance-direct': 'uploading',
  'web-download': 'queued',
  'glance-download': 'queued',
  'copy-image': 'active',
}

async function importUndone(tx: Tx, args: ImportArgs, error: SagaFailure): Promise<void> {
  const { method } = args.source
  afterCommit(tx, () => tokenForget(args.taskId))
  await tx
    .updateTable('glance.images')
    .set({
      ...(method !== 'copy-image' && { status: BACK[method] }),
      upload: null,
      message: error.message,
      import: json({ task: args.taskId, to: [], failed: args.stores, running: false }),
      updated_at: sql<Date>`now()`,
    })
    .where('id', '=', args.imageId)
    .where('upload', '=', args.file)
    .execute()
  await taskSet(tx, args.taskId, { status: 'failure', message: error.message })
}

/** Changes a task; one that ends is kept for a while. */
export async function taskSet(
  tx: Tx,
  id: string,
  change: { status: 'processing' | 'success' | 'failure'; message?: string; result?: Record<string, unknown> },
): Promise<void> {
  const ends = change.status !== 'processing'
  await tx
    .updateTable('glance.tasks')
    .set({
      status: change.status,
      message: change.message ?? '',
      ...(change.result && { result: json(change.result) }),
      ...(ends && { expires_at: sql<Date>`now() + ${TASK_HOURS} * interval '1 hour'` }),
      updated_at: sql<Date>`now()`,
    })
    .where('id', '=', id)
    .execute()
}

/** Hours that an ended task is kept: glance-api.conf's task_time_to_live. */
export const TASK_HOURS = 48
