/** Asking for consoles: POST …/remote-consoles, the older actions, and what a token opens. */
import { badRequest, conflict, notFound, notImplemented } from '#kit/fault.ts'
import { type Call, type Route, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { action } from '../actions/action.ts'
import { query } from '../fields.ts'
import { serverTarget } from '../servers/routes.ts'
import type { Server } from '../servers/store.ts'
import { novaSettings } from '../settings.ts'
import { V } from '../versions.ts'
import { consolePages } from './page.ts'
import { consoleTokenFind, consoleTokenMake } from './store.ts'

const RULE = 'os_compute_api:os-remote-consoles'
const CLOSED = { additionalProperties: false }

/** protocol → the one type of it that there is. */
const OFFERED: Record<string, string> = { vnc: 'novnc', serial: 'serial' }

/** A URL that opens a console of the server once. Throws badRequest for a kind that is not offered, conflict for a server without a host. */
async function consoleUrl(
  { env, self }: Pick<Call, 'env' | 'self'>,
  server: Server,
  protocol: string,
  type: string,
): Promise<string> {
  if (OFFERED[protocol] === undefined) {
    if (protocol === 'rdp') throw badRequest(`Unavailable console type ${type}.`)
    throw notImplemented('The requested functionality is not supported.')
  }
  if (OFFERED[protocol] !== type) throw badRequest(`Unavailable console type ${type}.`)
  if (server.host === null || server.vm_state === 'building') throw conflict(`Instance ${server.id} is not ready`)
  if (protocol === 'vnc' && server.image?.properties.hw_video_model === 'none')
    throw badRequest(`Unavailable console type ${type}.`)
  const kind = protocol as 'vnc' | 'serial'
  const seconds = env.config.of(novaSettings).console_token_ttl
  const of = { serverId: server.id, host: server.host, kind, consoleType: type }
  const token = await env.db.tx(tx => consoleTokenMake(tx, of, seconds))
  if (kind === 'serial') return `${self('/serial/websockify', '').replace(/^http/, 'ws')}?token=${token}`
  const socket = new URL(self('/novnc/websockify', '')).pathname.slice(1)
  return `${self('/novnc/vnc_lite.html', '')}?path=${encodeURIComponent(`${socket}?token=${token}`)}`
}

const kinds = (protocols: string[], types: string[]) =>
  S.Object(
    {
      remote_console: S.Object(
        {
          protocol: S.Unsafe<string>({ type: 'string', enum: protocols }),
          type: S.Unsafe<string>({ type: 'string', enum: types }),
        },
        CLOSED,
      ),
    },
    CLOSED,
  )
const PROTOCOLS = ['vnc', 'spice', 'serial', 'rdp']
const TYPES = ['novnc', 'xvpvnc', 'spice-html5', 'serial', 'rdp-html5']

const create = route({
  method: 'POST',
  path: '/servers/:id/remote-consoles',
  since: V.remoteConsoles,
  policy: RULE,
  target: serverTarget,
  body: S.byVersion(
    [0, kinds(PROTOCOLS, TYPES)],
    [V.mksConsole, kinds([...PROTOCOLS, 'mks'], [...TYPES, 'webmks'])],
    [V.spiceDirect, kinds([...PROTOCOLS, 'mks'], [...TYPES, 'webmks', 'spice-direct'])],
  ),
  async handle(call) {
    const { protocol, type } = call.body.remote_console
    return { remote_console: { protocol, type, url: await consoleUrl(call, call.target, protocol, type) } }
  },
})

const old = (key: string, protocol: string, types: string[]): Route =>
  action({
    key,
    policy: RULE,
    until: V.remoteConsoles - 1,
    success: 200,
    value: S.Object({ type: S.Unsafe<string>({ type: 'string', enum: types }) }, CLOSED),
    async handle(call, { type }) {
      return { console: { type, url: await consoleUrl(call, call.target, protocol, type) } }
    },
  })

const token = route({
  method: 'GET',
  path: '/os-console-auth-tokens/:token',
  policy: 'os_compute_api:os-console-auth-tokens',
  query: query({}, V.spiceDirect),
  async handle({ db, params, version }) {
    if (version < V.consoleTokens)
      throw badRequest('Only the consoles of RDP could be asked for here, and there are none any more.')
    const found = await consoleTokenFind(db, params.token!)
    if (!found) throw notFound('Token not found')
    // The console is a socket on its host, which no port leads to: the path says which.
    return {
      console: {
        instance_uuid: found.server_id,
        host: found.host,
        port: 0,
        internal_access_path: `${found.kind}/${found.server_id}`,
      },
    }
  },
})

export const consoleRoutes: Route[] = [
  create,
  old('os-getVNCConsole', 'vnc', ['novnc', 'xvpvnc']),
  old('os-getSPICEConsole', 'spice', ['spice-html5']),
  old('os-getRDPConsole', 'rdp', ['rdp-html5']),
  old('os-getSerialConsole', 'serial', ['serial']),
  token,
  ...consolePages,
]
