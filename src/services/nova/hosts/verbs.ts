/** What compute hosts ask of controllers: what they should have, image bytes; and what they report. The host is whom the link proved. */
import { sql } from '#kit/db/index.ts'
import { forbidden } from '#kit/fault.ts'
import { type Served, type Serving, serve, streamed } from '#kit/link/index.ts'
import type { Env } from '#kit/service.ts'
import { guestSpec } from '../guests/spec.ts'
import { neighbours } from '../neighbours.ts'
import { powerNumber } from '../servers/states.ts'
import type { Guest } from '../spec.ts'
import { type Desired, type DesiredArgs, desired, imageOpen, type Report, report } from '../verbs.ts'
import { hostReport } from './store.ts'

type On = Serving<Env>

/**
 * The guests that should be on the host. Those that a saga works on are left alone, and so are, for now, servers in error: the operator
 * looks at them. What the host has and no row knows is destroyed.
 */
async function desiredOf({ known, only }: DesiredArgs, { env, host }: On): Promise<Desired> {
  const ids = Object.keys(known)
  const rows = await env.db.read.selectFrom('nova.servers').selectAll().where('host', '=', host).execute()
  const elsewhere =
    ids.length === 0 ? [] : await env.db.read.selectFrom('nova.servers').select(['id', 'host']).where('id', 'in', ids).execute()
  const resources = [...new Set([...rows.map(row => row.id), ...ids])].map(id => `nova.server:${id}`)
  const busy = new Set(
    resources.length === 0
      ? []
      : (await env.db.read.selectFrom('kit.sagas').select('resource').where('resource', 'in', resources).execute()).map(
          s => s.resource,
        ),
  )
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
    destroy: ids.filter(id => free(id) && !mine.has(id) && !waiting.has(id) && known404.get(id) !== host),
  }
}

/** Brings rows in line with what the host sees of guests that no saga works on. */
async function reported({ guests, inventory }: Report, { env, host }: On): Promise<Record<string, never>> {
  await env.db.tx(async tx => {
    if (inventory) await hostReport(tx, host, inventory)
    for (const guest of guests) await guestSeen(tx, host, guest)
  })
  return {}
}

/** What a server is when its guest is found so by itself. */
const VM_STATE: Record<Guest['power'], string> = {
  running: 'active',
  paused: 'paused',
  suspended: 'suspended',
  off: 'stopped',
  crashed: 'stopped',
}

async function guestSeen(tx: Parameters<typeof hostReport>[0], host: string, guest: Guest): Promise<void> {
  const row = await tx
    .selectFrom('nova.servers')
    .select(['vm_state', 'task_state', 'power_state'])
    .where('id', '=', guest.id)
    .where('host', '=', host)
    .executeTakeFirst()
  if (!row || row.task_state !== null) return
  const power = powerNumber(guest.power)
  if (row.power_state === power) return
  const moves = ['active', 'paused', 'stopped', 'suspended'].includes(row.vm_state)
  const busy = await tx.selectFrom('kit.sagas').select('id').where('resource', '=', `nova.server:${guest.id}`).executeTakeFirst()
  if (busy) return
  await tx
    .updateTable('nova.servers')
    .set({
      power_state: power,
      updated_at: new Date(),
      ...(moves ? { vm_state: VM_STATE[guest.power], wanted_power: wantedOf(guest) } : {}),
    })
    .where('id', '=', guest.id)
    .where('task_state', 'is', null)
    .execute()
}

const wantedOf = ({ power }: Guest) => (power === 'crashed' ? 'off' : power)

/** The bytes of an image, for a host that has a server of it. */
async function imageOpened({ imageId }: { imageId: string }, { env, host }: On) {
  const user = await env.db.read
    .selectFrom('nova.servers')
    .select('id')
    .where('host', '=', host)
    .where(sql<boolean>`${imageId} in (image_ref, shelved_image, rescue->'image'->>'id')`)
    .limit(1)
    .executeTakeFirst()
  if (!user) throw forbidden(`No server of host ${host} uses image ${imageId}.`)
  const { size, bytes } = await neighbours.imageBytes(env, imageId)
  return streamed({ size }, bytes)
}

export const hostVerbs: Served<Env>[] = [serve(desired, desiredOf), serve(report, reported), serve(imageOpen, imageOpened)]
