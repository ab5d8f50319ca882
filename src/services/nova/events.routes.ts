/**
 * /os-server-external-events: what other services tell of. Networking is in this house and needs none of them; they are taken from services
 * outside all the same, each answered for itself.
 */
import { afterCommit } from '#kit/db/index.ts'
import { badRequest } from '#kit/fault.ts'
import { type Call, type Route, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { sagaPoke } from '#kit/saga/index.ts'
import { neighbours } from './neighbours.ts'
import { hostPoke } from './servers/create.saga.ts'
import { serverChange, serverLock, serverResource } from './servers/store.ts'
import { V } from './versions.ts'

const CLOSED = { additionalProperties: false }
const BASE = ['network-changed', 'network-vif-plugged', 'network-vif-unplugged', 'network-vif-deleted']
const LATER: [number, string][] = [
  [V.actionEvents, 'volume-extended'],
  [V.powerUpdate, 'power-update'],
  [V.acceleratorBound, 'accelerator-request-bound'],
  [V.rebuildVolume, 'volume-reimaged'],
]

const bodyOf = (names: string[]) =>
  S.Object(
    {
      events: S.Array(
        S.Object(
          {
            server_uuid: S.Uuid(),
            name: S.Unsafe<string>({ type: 'string', enum: names }),
            status: S.Optional(S.OneOf('failed', 'completed', 'in-progress')),
            tag: S.Optional(S.String({ maxLength: 255 })),
          },
          CLOSED,
        ),
        { minItems: 1 },
      ),
    },
    CLOSED,
  )

const body = S.byVersion(
  [0, bodyOf(BASE)],
  ...LATER.map(
    ([version], i) =>
      [version, bodyOf([...BASE, ...LATER.slice(0, i + 1).map(([, name]) => name)])] as [number, ReturnType<typeof bodyOf>],
  ),
)

interface Event {
  server_uuid: string
  name: string
  status?: 'failed' | 'completed' | 'in-progress'
  tag?: string
}

/** Acts on one event. Returns the code that it is answered with. */
async function heard({ env }: Pick<Call, 'env'>, event: Event): Promise<number> {
  const { server_uuid: id, name, tag } = event
  return env.db.tx(async tx => {
    const server = await serverLock(tx, id)
    if (!server) return 404
    if (server.host === null) return 422
    if (name === 'network-vif-deleted' && tag !== undefined && server.nics.some(nic => nic.portId === tag)) {
      const still = (await neighbours.interfaces(tx, id)).some(port => port.portId === tag)
      if (!still) {
        await serverChange(tx, id, { nics: server.nics.filter(nic => nic.portId !== tag) })
        const { host } = server
        afterCommit(tx, () => hostPoke(env, host, id))
      }
    }
    // Who waits for a port looks again.
    await sagaPoke(tx, serverResource(id))
    return 200
  })
}

export const eventRoutes: Route[] = [
  route({
    method: 'POST',
    path: '/os-server-external-events',
    policy: 'os_compute_api:os-server-external-events:create',
    body,
    async handle(call) {
      const asked = call.body.events as Event[]
      const answered = []
      for (const event of asked) {
        const status = event.status ?? 'completed'
        answered.push({ ...event, status, code: await heard(call, event) })
      }
      if (answered.every(({ code }) => code === 404)) throw badRequest('No instances found for any event', { status: 404 })
      call.reply.status = answered.every(({ code }) => code === 200) ? 200 : 207
      return { events: answered }
    },
  }),
]
