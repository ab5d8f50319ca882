/** Gives a queued image a URL as its location: its bytes are read once, inspected and hashed, and stay where they are. */
import { createHash } from 'node:crypto'
import { sql, type Tx } from '#kit/db/index.ts'
import { badRequest, gone } from '#kit/fault.ts'
import { saga } from '#kit/saga/index.ts'
import type { Env } from '#kit/service.ts'
import { httpRead } from '../files/http.ts'
import { filled } from '../images/data.routes.ts'
import { receive } from '../images/receive.ts'
import { imageUpdate } from '../images/store.ts'
import { HTTP } from '../stores.ts'
import { taskSet } from './import.saga.ts'
import { uriAllowed } from './uri.ts'

export interface LocationArgs {
  imageId: string
  taskId: string
  /** Marks the image as taken; no file has this name. */
  mark: string
  url: string
  /** What the bytes must be. */
  hash: { algorithm: string; value: string } | null
}

export const locationImport = saga<LocationArgs>('glance.image.location', async (run, args) => {
  run.ifUndone(async (tx, { message }) => {
    await tx
      .updateTable('glance.images')
      .set({ status: 'queued', upload: null, message, updated_at: sql<Date>`now()` })
      .where('id', '=', args.imageId)
      .where('upload', '=', args.mark)
      .execute()
    await taskSet(tx, args.taskId, { status: 'failure', message })
  })
  await run.step('begin', tx => taskSet(tx, args.taskId, { status: 'processing' }))
  const facts = await run.act('read', ({ signal }) => read(run.env, args, signal), undefined, {
    deadline: 24 * 3600,
    retries: 2,
  })
  await run.step('report', tx => report(tx, args, facts))
})

async function read(env: Env, args: LocationArgs, signal: AbortSignal) {
  const image = await env.db.read.selectFrom('glance.images').selectAll().where('id', '=', args.imageId).executeTakeFirst()
  if (!image) throw gone(`The image ${args.imageId} was deleted.`)
  const source = await httpRead(args.url, undefined, { allow: at => uriAllowed(env, at), signal })
  const hash = args.hash && createHash(args.hash.algorithm)
  const { size, md5, sha512, found } = await receive(env, image, hashed(source, hash), {
    places: [],
    file: args.mark,
    inspect: true,
    signal,
  })
  const actual = hash?.digest('hex')
  if (args.hash && actual !== args.hash.value.toLowerCase()) {
    throw badRequest(`os_hash_value: (${args.hash.value}) not matched with actual os_hash_value: (${actual})`)
  }
  return { size, md5, sha512, virtualSize: found.virtualSize ?? null }
}

async function* hashed(source: AsyncIterable<Buffer>, hash: ReturnType<typeof createHash> | null): AsyncGenerator<Buffer> {
  for await (const chunk of source) {
    hash?.update(chunk)
    yield chunk
  }
}

async function report(tx: Tx, args: LocationArgs, facts: Awaited<ReturnType<typeof read>>): Promise<void> {
  const image = await tx.selectFrom('glance.images').selectAll().where('id', '=', args.imageId).forUpdate().executeTakeFirst()
  if (image?.upload !== args.mark) throw gone(`The image ${args.imageId} was deleted.`)
  const { locations: _, ...rest } = filled(
    { ...facts, found: { format: '', virtualSize: facts.virtualSize ?? undefined } },
    [],
    '',
  )
  await imageUpdate(tx, image.id, { ...rest, locations: [{ store: HTTP, file: null, url: args.url, metadata: {} }] })
  await taskSet(tx, args.taskId, { status: 'success', result: { image_id: image.id } })
}
