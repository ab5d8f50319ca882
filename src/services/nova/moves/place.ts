/** Where a server goes when it moves: room is taken there in its own name, and what it has where it is stays taken by the migration. */
import type { Tx } from '#kit/db/index.ts'
import { call } from '#kit/link/index.ts'
import type { Env } from '#kit/service.ts'
import { guestSpec } from '../guests/spec.ts'
import { neighbours, type Owner } from '../neighbours.ts'
import type { Placed } from '../scheduler/request.ts'
import { schedule } from '../scheduler/scheduler.ts'
import { requestOf, resourcesOf } from '../servers/place.ts'
import { noServer, type Server, serverLock, serverRow } from '../servers/store.ts'
import type { Disk, GuestSpec, ImageRef, Power } from '../spec.ts'
import type { FlavorKept } from '../tables.ts'
import { ensure } from '../verbs.ts'
import { type Moving, migrationSet, providerOf } from './store.ts'

export const ownerOf = (server: Server): Owner => ({
  serverId: server.id,
  projectId: server.project_id,
  userId: server.user_id,
})

/** The server's row, locked, which must be there. */
export async function mustLock(tx: Tx, id: string): Promise<Server> {
  const server = await serverLock(tx, id)
  if (!server) throw noServer(id)
  return server
}

/** As {@link mustLock}, only read. */
export async function mustRead(env: Env, id: string): Promise<Server> {
  const server = await serverRow(env.db.read, id)
  if (!server) throw noServer(id)
  return server
}

export interface Wish {
  flavor?: FlavorKept
  /** Only this host. */
  target: string | null
  excluded: string[]
  /** What the migration is called from now on; `migrating` unless given. */
  status?: string
}

/** Chooses the host that a server moves to and takes room there. Throws NoValidHost. */
export async function movePlace(tx: Tx, env: Env, server: Server, moving: Moving, wish: Wish): Promise<Placed> {
  const owner = ownerOf(server)
  if (!(await neighbours.claimsPass(tx, owner, server.id, moving.uuid))) {
    const here = await providerOf(tx, server.host!)
    await neighbours.claim(tx, owner, { [here]: resourcesOf(server.flavor) }, { consumerId: moving.uuid })
  }
  const placed = await schedule(
    tx,
    env,
    owner,
    await requestOf(tx, server, {
      ...(wish.flavor ? { flavor: wish.flavor } : {}),
      forcedHost: null,
      forcedNode: null,
      requestedHost: wish.target,
      requestedNode: null,
      excluded: wish.excluded,
    }),
  )
  const node = await tx.selectFrom('nova.hypervisors').select('host_ip').where('host', '=', placed.host).executeTakeFirst()
  await migrationSet(tx, moving.id, {
    dest_compute: placed.host,
    dest_node: placed.node,
    dest_host: node?.host_ip ?? null,
    status: wish.status ?? 'migrating',
  })
  return placed
}

/** The server has again what it had on the host that it comes from, and the migration nothing. */
export async function moveSettle(tx: Tx, server: Server, moving: Moving, host: string, flavor: FlavorKept): Promise<void> {
  if (await neighbours.claimsPass(tx, ownerOf(server), moving.uuid, server.id)) return
  await neighbours.claim(tx, ownerOf(server), { [await providerOf(tx, host)]: resourcesOf(flavor) })
}

/** What a migration's bytes are asked for by: see {@link movedParts}. */
export const partId = (moving: Moving, name: string): string => `move-${moving.uuid}-${name}`

/** The part that is not a disk. No disk is called so. */
export const MEMORY = 'memory'

/** Reads {@link partId}. */
export function movedParts(imageId: string): { uuid: string; name: string } | undefined {
  const parts = /^move-([0-9a-f-]{36})-([\w-]+)$/.exec(imageId)
  return parts ? { uuid: parts[1]!, name: parts[2]! } : undefined
}

/** A guest whose disks come from `content` of their names where they are missing. Volumes stay where they are, media are Glance's. */
export function withContent(spec: GuestSpec, content: (name: string) => ImageRef | undefined): GuestSpec {
  const from = (disk: Disk): Disk => {
    const bytes = disk.kind === 'volume' || disk.device === 'cdrom' ? undefined : content(disk.name)
    return bytes ? { ...disk, content: bytes } : disk
  }
  return { ...spec, disks: spec.disks.map(from) }
}

/** Makes a server's guest on its host what its row says. */
export const guestEnsure = (env: Env, server: Server, power: Power, acting: { signal: AbortSignal; key: string }) =>
  call(env, server.host!, ensure, guestSpec(server, { power }), { ...acting, deadline: 1800 })
