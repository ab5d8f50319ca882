/** What compute hosts ask of controllers: what they should have, image bytes; and what they report. The host is whom the link proved. */
import { type Query, sql, type Tx } from '#kit/db/index.ts'
import { forbidden } from '#kit/fault.ts'
import { callStream, type Served, type Serving, serve, streamed } from '#kit/link/index.ts'
import type { Env } from '#kit/service.ts'
import { guestSpec } from '../guests/spec.ts'
import { MEMORY, movedParts } from '../moves/place.ts'
import { IN_PROGRESS } from '../moves/store.ts'
import { neighbours } from '../neighbours.ts'
import { createServer } from '../servers/create.saga.ts'
import { deleteServer } from '../servers/delete.saga.ts'
import { powerNumber } from '../servers/states.ts'
import { serverLock, serverResource, serverUpdate } from '../servers/store.ts'
import type { Guest } from '../spec.ts'
import { type Desired, type DesiredArgs, desired, imageOpen, memoryOut, type Report, report, snapshot } from '../verbs.ts'
import { hostReport } from './store.ts'

type On = Serving<Env>

interface Work {
  resource: string
  name: string
  state: string
}

/** Whether a saga ends with nothing of its server on any host. It may have passed the step that says so to a host that was away then. */
const isDooming = ({ name, state }: Work): boolean =>
  (name === deleteServer.name && state !== 'queued') || (name === createServer.name && state === 'undoing')

/**
 * The guests that should be on the host. Those that a saga works on are left alone, unless it is to leave nothing of them, and so are, for now,
 * servers in error: the operator looks at them. What the host has and no row knows is destroyed.
 */
async function desiredOf({ known, only }: DesiredArgs, { env, host }: On): Promise<Desired> {
  const ids = Object.keys(known)
  const rows = await env.db.read.selectFrom('nova.servers').selectAll().where('host', '=', host).execute()
  const elsewhere =
    ids.length === 0 ? [] : await env.db.read.selectFrom('nova.servers').select(['id', 'host']).where('id', 'in', ids).execute()
  const resources = [...new Set([...rows.map(row => row.id), ...ids])].map(id => `nova.server:${id}`)
  const work: Work[] =
    resources.length === 0
      ? []
      : await env.db.read
          .selectFrom('kit.sagas')
          .select(['resource', 'name', 'state'])
          .where('resource', 'in', resources)
          .execute()
  const busy = new Set(work.map(one => one.resource))
  const doomed = new Set(work.filter(isDooming).map(one => one.resource))
  const free = (id: string): boolean => !busy.has(`nova.server:${id}`)
  const stable = new Set(['active', 'stopped', 'paused', 'suspended', 'resized', 'rescued'])
  const mine = new Set(rows.map(row => row.id))
  // Where a server was before a resize its guest waits, until that is confirmed or reverted.
  const waiting = new Set(
    (await env.db.read.selectFrom('nova.servers').select('id').where('resize', 'is not', null).execute()).map(r => r.id),
  )
  const known404 = new Map(elsewhere.map(row => [row.id, row.host]))
  return {
    ensure: rows
      .filter(row => (only === undefined || row.id === only) && free(row.id) && stable.has(row.vm_state))
      .filter(row => known[row.id] === undefined || known[row.id]! < row.revision)
      .map(row => guestSpec(row)),
    destroy: ids.filter(
      id => doomed.has(`nova.server:${id}`) || (free(id) && !mine.has(id) && !waiting.has(id) && known404.get(id) !== host),
    ),
  }
}

/** Brings rows in line with what the host sees of guests that no saga works on. */
async function reported({ guests, inventory }: Report, { env, host }: On): Promise<Record<string, never>> {
  if (inventory) await env.db.tx(tx => hostReport(tx, env, host, inventory))
  const news = await differing(env.db.read, host, guests)
  for (const guest of guests.filter(({ id, destroying }) => news.has(id) && !destroying))
    await env.db.tx(tx => guestSeen(tx, host, guest))
  return {}
}

/** The servers whose rows say another power state than their guests; usually none. */
async function differing(db: Query, host: string, guests: readonly Guest[]): Promise<Set<string>> {
  if (guests.length === 0) return new Set()
  const { rows } = await sql<{ id: string }>`
    select s.id from unnest(${guests.map(g => g.id)}::text[], ${guests.map(g => powerNumber(g.power))}::int[]) g (id, power)
    join nova.servers s on s.id = g.id
    where s.host = ${host} and s.task_state is null and s.power_state <> g.power
      and not exists (select from kit.sagas k where k.resource = 'nova.server:' || g.id)`.execute(db)
  return new Set(rows.map(row => row.id))
}

/** What a server is when its guest is found so by itself. */
const VM_STATE: Record<Guest['power'], string> = {
  running: 'active',
  paused: 'paused',
  suspended: 'suspended',
  off: 'stopped',
  crashed: 'stopped',
}
const BY_POWER = Object.values(VM_STATE)

async function guestSeen(tx: Tx, host: string, guest: Guest): Promise<void> {
  const row = await serverLock(tx, guest.id)
  if (row?.host !== host || row.task_state !== null) return
  const busy = await tx.selectFrom('kit.sagas').select('id').where('resource', '=', serverResource(guest.id)).executeTakeFirst()
  if (busy) return
  const follows = BY_POWER.includes(row.vm_state)
  await serverUpdate(tx, guest.id, {
    power_state: powerNumber(guest.power),
    ...(follows ? { vm_state: VM_STATE[guest.power], wanted_power: guest.power === 'crashed' ? 'off' : guest.power } : {}),
  })
}

/** The bytes of an image, for a host that has a server of it. */
async function imageOpened({ imageId }: { imageId: string }, { env, host }: On) {
  const moved = movedParts(imageId)
  if (moved) return movedBytes(env, host, moved)
  const user = await env.db.read
    .selectFrom('nova.servers')
    .select('id')
    .where('host', '=', host)
    .where(
      sql<boolean>`${imageId} in (image_ref, shelved_image, rescue->'image'->>'id', image->'properties'->>'kernel_id', image->'properties'->>'ramdisk_id')`,
    )
    .limit(1)
    .executeTakeFirst()
  if (!user) throw forbidden(`No server of host ${host} uses image ${imageId}.`)
  const { size, bytes } = await neighbours.imageBytes(env, imageId)
  return streamed({ size }, bytes)
}

/** A disk, or the memory, of a server that is on its way to the asking host: its old host gives it. */
async function movedBytes(env: Env, host: string, { uuid, name }: { uuid: string; name: string }) {
  const move = await env.db.read
    .selectFrom('nova.migrations')
    .select(['server_id', 'source_compute'])
    .where('uuid', '=', uuid)
    .where('dest_compute', '=', host)
    .where('status', 'in', IN_PROGRESS)
    .executeTakeFirst()
  if (!move?.source_compute) throw forbidden(`No server moves to host ${host} by migration ${uuid}.`)
  const from = move.source_compute
  const id = move.server_id
  const { result, body } =
    name === MEMORY
      ? await callStream(env, from, memoryOut, { id })
      : await callStream(env, from, snapshot, { id, disk: name, format: 'qcow2' })
  return streamed({ size: result.size }, body)
}

export const hostVerbs: Served<Env>[] = [serve(desired, desiredOf), serve(report, reported), serve(imageOpen, imageOpened)]
