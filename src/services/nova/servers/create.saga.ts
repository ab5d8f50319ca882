/**
 * Creates a server: a host, its resources and ports (one transaction); the guest on the host; its ports wired; ACTIVE. A host that fails
 * for reasons of its own is left for the next best one, up to max_attempts hosts.
 */

import type { Tx } from '#kit/db/index.ts'
import { Fault, reason } from '#kit/fault.ts'
import { call, hostAwaited, notify } from '#kit/link/index.ts'
import { type Run, type SagaFailure, saga } from '#kit/saga/index.ts'
import type { Env } from '#kit/service.ts'
import { actionEnd } from '../actions/store.ts'
import { guestSpec } from '../guests/spec.ts'
import { neighbours } from '../neighbours.ts'
import type { Placed } from '../scheduler/request.ts'
import { NoValidHost } from '../scheduler/scheduler.ts'
import { novaSettings } from '../settings.ts'
import type { Guest } from '../spec.ts'
import { destroy, ensure, poke } from '../verbs.ts'
import { serverPlace, serverUnplace } from './place.ts'
import { POWER, powerNumber } from './states.ts'
import { faultKept, noServer, type Server, serverRow, serverUpdate } from './store.ts'

export interface CreateArgs {
  serverId: string
  requestId: string
  adminPassword: string
}

/** Seconds that the host may take, an image to be fetched included. */
const BOOT_SECONDS = 1800
/** Seconds for which a host that was just chosen may be away: this controller, or its agent, has been restarted meanwhile. */
const AWAY_SECONDS = 30

type Booted = { power: number } | { failed: string }

export const createServer = saga<CreateArgs>('nova.server.create', async (run, args) => {
  const { serverId, requestId } = args
  run.ifUndone(async (tx, failure) => {
    const cancelled = failure.cancelled === true
    await serverUpdate(tx, serverId, {
      vm_state: 'error',
      task_state: cancelled ? 'deleting' : null,
      power_state: POWER.nostate,
      host: null,
      node: null,
      ...(cancelled ? {} : { fault: buildFault(failure) }),
    })
    await actionEnd(tx, serverId, requestId, { event: 'compute__do_build_and_run_instance', host: null, failure })
  })
  const attempts = run.env.config.of(novaSettings).max_attempts
  const failed: { host: string; why: string }[] = []
  for (let attempt = 1; ; attempt++) {
    const suffix = attempt === 1 ? '' : `-${attempt}`
    // The row as it was placed, where this process did it just now.
    let server: Server | undefined
    const { host } = await run.step(
      `place${suffix}`,
      async tx => {
        const found = await placeElsewhere(tx, run.env, serverId, failed)
        server = found.server
        return found.placed
      },
      tx => serverUnplace(run.env, tx, serverId),
      { next: { name: `boot${suffix}`, deadline: BOOT_SECONDS } },
    )
    const booted = await boot(run, args, { host, server, suffix, more: attempt < attempts })
    if (!('failed' in booted)) {
      await finish(run, args, host, booted)
      return
    }
    failed.push({ host, why: booted.failed })
    await run.act(`clean${suffix}`, () => leave(run.env, host, serverId))
    await run.step(`unplace${suffix}`, tx => serverUnplace(run.env, tx, serverId))
  }
})

/** As serverPlace, but where no host is left the reason is that of the hosts that were tried. */
async function placeElsewhere(
  tx: Tx,
  env: Env,
  serverId: string,
  failed: readonly { host: string; why: string }[],
): Promise<{ placed: Placed; server: Server }> {
  const tried = failed.map(({ host }) => host)
  try {
    return await serverPlace(tx, env, serverId, tried)
  } catch (error) {
    if (!(error instanceof NoValidHost) || failed.length === 0) throw error
    const why = new Map(failed.map(one => [one.host, one.why]))
    const told = error.refusals.map(one => (why.has(one.host) ? { ...one, why: `it was tried: ${why.get(one.host)}` } : one))
    throw new NoValidHost(told)
  }
}

interface Boot {
  host: string
  /** The server's row, where it is known. */
  server: Server | undefined
  suffix: string
  /** Whether another host may be tried after this one. */
  more: boolean
}

function boot(run: Run, { serverId, adminPassword }: CreateArgs, { host, server: known, suffix, more }: Boot): Promise<Booted> {
  const { env } = run
  return run.act<Booted>(
    `boot${suffix}`,
    async ({ signal, key, attempt }) => {
      const server = attempt === 1 && known ? known : await serverRow(env.db.read, serverId)
      if (!server) throw noServer(serverId)
      let guest: Guest
      await hostAwaited(env, host, AWAY_SECONDS, signal)
      try {
        guest = await call(env, host, ensure, guestSpec(server, { adminPassword }), { key, signal, deadline: BOOT_SECONDS })
      } catch (error) {
        if (more && !signal.aborted && isOfHost(error)) return { failed: reason(error) }
        throw error
      }
      return { power: powerNumber(guest.power) }
    },
    () => leave(env, host, serverId),
    { deadline: BOOT_SECONDS, retries: 0 },
  )
}

/** Whether another host might do what this one did not. A bad image or request is bad everywhere. */
const isOfHost = (error: unknown): boolean =>
  !(error instanceof Fault) || !['badRequest', 'forbidden', 'tooLarge'].includes(error.kind)

/**
 * Nothing of the server stays on the host. One that is on its way back after this controller's start is waited for. One that is away is told
 * when it comes back: it asks for what it should have, and this server is not on that list.
 */
export async function leave(env: Env, host: string, serverId: string): Promise<void> {
  try {
    await call(env, host, destroy, { id: serverId })
  } catch (error) {
    if (error instanceof Fault && error.kind === 'unavailable' && !env.hosts.isConnected(host)) return
    throw error
  }
}

async function finish(run: Run, { serverId, requestId }: CreateArgs, host: string, booted: { power: number }): Promise<void> {
  await wire(run, serverId)
  run.ifDone(async tx => {
    const values = { vm_state: 'active', task_state: null, power_state: booted.power, launched_at: new Date(), progress: 0 }
    await Promise.all([
      serverUpdate(tx, serverId, values),
      actionEnd(tx, serverId, requestId, { event: 'compute__do_build_and_run_instance', host }),
    ])
  })
}

/** The step that waits until a server's ports are wired where they are bound. */
export async function wire(run: Run, serverId: string): Promise<void> {
  const { env } = run
  const seconds = env.config.of(novaSettings).vif_plugging_timeout
  if (seconds === 0) return
  await run.until('wire', async db => (await neighbours.serverWired(db, serverId)) || undefined, { deadline: seconds })
}

/** The fault of a failed build: which step, and the words of whoever refused. */
function buildFault(failure: SagaFailure) {
  const scheduling = failure.step.startsWith('place')
  const message = scheduling ? failure.message : `Build of instance aborted at step '${failure.step}': ${failure.message}`
  return faultKept(500, message, `${failure.step}: ${failure.kind}: ${failure.message}`)
}

/** Tells a host to ask again what it should have. */
export const hostPoke = (env: Env, host: string, id?: string): boolean => notify(env, host, poke, { id })
