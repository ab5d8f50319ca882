/**
 * Interfaces of a server that is there already. The row says first what the guest should have, then its host is asked: if this process dies
 * in between, the host asks by itself what its guests should be, and plugs the interface then. What the host refuses is taken back.
 */
import type { Tx } from '#kit/db/index.ts'
import { badRequest, conflict, notFound, reason } from '#kit/fault.ts'
import type { Call } from '#kit/http/route.ts'
import { call as ask } from '#kit/link/index.ts'
import type { SagaFailure } from '#kit/saga/index.ts'
import { mayBegin } from '../actions/operation.ts'
import { actionEnd, actionsBegin } from '../actions/store.ts'
import { nicOf } from '../guests/spec.ts'
import { type Interface, neighbours } from '../neighbours.ts'
import { type Server, serverChange, serverLock, serverResource, serverTake } from '../servers/store.ts'
import type { NetworkAsked, NicKept } from '../tables.ts'
import { attachNic, detachNic } from '../verbs.ts'

const FROM = ['active', 'paused', 'stopped']
type Asking = Pick<Call, 'ctx' | 'env' | 'params' | 'signal'>

const failed = (step: string, error: unknown): SagaFailure => ({ step, message: reason(error), kind: 'internal' })

/** Gives a server an interface. Throws what networking refuses, conflict in a state that does not allow it, and what the host says. */
export async function interfaceAttach(call: Asking, asked: NetworkAsked): Promise<{ shown: Interface; tag: string | null }> {
  const { ctx, env, params, signal } = call
  const id = params.id!
  const { server, nic } = await env.db.tx(tx => attachBegin(tx, call, id, asked))
  const event = 'compute_attach_interface'
  if (server.host !== null) {
    try {
      await ask(env, server.host, attachNic, { id, nic: nicOf(nic, server.image, server.flavor) }, { signal, key: ctx.requestId })
    } catch (error) {
      await env.db.tx(async tx => {
        const now = await serverLock(tx, id)
        if (now) await takeBack(tx, call, now, nic.portId)
        await actionEnd(tx, id, ctx.requestId, { event, host: server.host, failure: failed('attach', error) })
      })
      throw error
    }
  }
  await env.db.tx(tx => actionEnd(tx, id, ctx.requestId, { event, host: server.host }))
  return { shown: await shownOf(call, id, nic.portId), tag: nic.tag }
}

async function attachBegin(
  tx: Tx,
  { ctx, env }: Asking,
  id: string,
  asked: NetworkAsked,
): Promise<{ server: Server; nic: NicKept }> {
  const server = await serverTake(tx, ctx, id)
  mayBegin(ctx, server, { action: 'attach_interface', from: FROM })
  const nothing = asked.network === undefined && asked.port === undefined
  const networks = await neighbours.networksCheck(env, tx, ctx, nothing ? 'auto' : [asked], 1)
  if (!Array.isArray(networks)) throw badRequest('No suitable network could be found.')
  const owner = { serverId: id, projectId: server.project_id, userId: server.user_id }
  if (asked.port !== undefined && server.host !== null) await neighbours.portPromise(tx, id, server.host, asked.port)
  const { nics, securityGroups } = await neighbours.portsTake(env, tx, owner, server.host ?? '', {
    networks: networks.map(network => ({ ...network, tag: asked.tag })),
    securityGroups: [],
    hostname: server.hostname,
    zone: server.availability_zone ?? '',
    wake: serverResource(id),
  })
  const nic = nics[0]!
  await actionsBegin(tx, ctx, 'attach_interface', [server])
  await serverChange(tx, id, { nics: [...server.nics, nic], security_groups: securityGroups })
  return { server, nic }
}

/** The port is not the server's any more: it goes, or is free again if the caller brought it. */
async function takeBack(tx: Tx, { env }: Pick<Asking, 'env'>, server: Server, portId: string): Promise<void> {
  await neighbours.portsRelease(env, tx, server.id, server.nics, portId)
  await serverChange(tx, server.id, {
    nics: server.nics.filter(nic => nic.portId !== portId),
    security_groups: await neighbours.securityGroupsOf(tx, server.id),
  })
}

/** Takes an interface from a server. Throws notFound for a port that is not the server's. */
export async function interfaceDetach(call: Asking, portId: string): Promise<void> {
  const { ctx, env, params, signal } = call
  const id = params.id!
  const server = await env.db.tx(async tx => {
    const row = await serverTake(tx, ctx, id)
    mayBegin(ctx, row, { action: 'detach_interface', from: FROM })
    if (!row.nics.some(nic => nic.portId === portId)) throw noPort(portId)
    await actionsBegin(tx, ctx, 'detach_interface', [row])
    return row
  })
  const event = 'compute_detach_interface'
  try {
    if (server.host !== null) await ask(env, server.host, detachNic, { id, portId }, { signal, key: ctx.requestId })
  } catch (error) {
    await env.db.tx(tx => actionEnd(tx, id, ctx.requestId, { event, host: server.host, failure: failed('detach', error) }))
    throw conflict(`Failed to detach network adapter device from ${id}: ${reason(error)}`, { cause: error })
  }
  await env.db.tx(async tx => {
    const now = await serverLock(tx, id)
    if (now) await takeBack(tx, call, now, portId)
    await actionEnd(tx, id, ctx.requestId, { event, host: server.host })
  })
}

export const noPort = (portId: string) => notFound(`Port ${portId} is not attached`)

/** An interface of a server. Throws notFound. */
export async function shownOf({ env }: Pick<Asking, 'env'>, id: string, portId: string): Promise<Interface> {
  const found = (await neighbours.interfaces(env.db.read, id)).find(port => port.portId === portId)
  if (!found) throw noPort(portId)
  return found
}
