/**
 * Cross-origin requests (CORS): which pages of others may speak with the APIs from a browser. One middleware for all services whose requests
 * are JSON; object storage has rules of its own, a container each. Off until an origin is allowed, and then it costs nothing.
 */
import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from 'node:http'
import type { Static } from 'typebox'
import { settings } from '../config.ts'
import { Array, Boolean, Integer, Object, String } from './schema.ts'

const Words = (defaults: string[], description: string) =>
  Array(String({ pattern: "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$" }), { default: defaults, description })

/** Section `cors` of the configuration, as oslo.middleware has it; the headers are those that the services' own defaults name together. */
export const corsSettings = settings(
  'cors',
  Object({
    allowed_origin: Array(String({ pattern: '^(\\*|[a-z][a-z0-9+.-]*://[^/\\s]+)$' }), {
      default: [],
      description:
        'Origins whose pages may call the APIs: SCHEME://HOST[:PORT] without a slash at the end, or * for any. Empty: none may.',
    }),
    allow_credentials: Boolean({
      default: true,
      description: 'Whether such a call may carry what the browser keeps for the cloud (cookies, certificates).',
    }),
    expose_headers: Words(
      [
        'X-Auth-Token',
        'X-Openstack-Request-Id',
        'X-Subject-Token',
        'X-Service-Token',
        'Openstack-Auth-Receipt',
        'OpenStack-API-Version',
        'X-OpenStack-Nova-API-Version',
        'X-Image-Meta-Checksum',
      ],
      'Headers of answers that a page may read.',
    ),
    max_age: Integer({
      default: 3600,
      minimum: 0,
      description: 'Seconds for which a browser may keep what a preflight answered.',
    }),
    allow_methods: Words(['OPTIONS', 'GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'TRACE', 'PATCH'], 'Methods that a page may use.'),
    allow_headers: Words(
      [
        'X-Auth-Token',
        'X-Openstack-Request-Id',
        'X-Subject-Token',
        'X-Project-Id',
        'X-Project-Name',
        'X-Project-Domain-Id',
        'X-Project-Domain-Name',
        'X-Domain-Id',
        'X-Domain-Name',
        'Openstack-Auth-Receipt',
        'X-Identity-Status',
        'X-Roles',
        'X-Service-Catalog',
        'X-User-Id',
        'X-Tenant-Id',
        'OpenStack-API-Version',
        'X-OpenStack-Nova-API-Version',
        'Content-MD5',
        'X-Image-Meta-Checksum',
        'X-Storage-Token',
        'Accept-Encoding',
      ],
      'Headers that a page may send, besides Accept, Content-Type and the other simple ones.',
    ),
  }),
  'Calls that pages of other origins make from a browser (CORS). Object storage has its own: per container, and under `swift`.',
)

const SIMPLE = [
  'Accept',
  'Accept-Language',
  'Content-Type',
  'Cache-Control',
  'Content-Language',
  'Expires',
  'Last-Modified',
  'Pragma',
]

/** Sees a request before its service does. True: it is answered. Else the answer that follows will have what it needs. */
export type Cors = (req: IncomingMessage, res: ServerResponse) => boolean

/** The middleware of a configuration; undefined where no origin is allowed. */
export function corsOf(config: Static<typeof corsSettings.schema>): Cors | undefined {
  if (config.allowed_origin.length === 0) return undefined
  const origins = new Set(config.allowed_origin)
  const methods = new Set(config.allow_methods)
  const headers = new Set([...SIMPLE, ...config.allow_headers].map(name => name.toLowerCase()))
  const exposed = config.expose_headers.join(',')

  /** What says to the browser that this origin may; undefined for one that may not. */
  const granted = (origin: string | undefined): Record<string, string> | undefined => {
    const shown = origin !== undefined && origins.has(origin) ? origin : origins.has('*') ? '*' : undefined
    if (origin === undefined || shown === undefined) return undefined
    const grant: Record<string, string> = { 'Access-Control-Allow-Origin': shown }
    if (config.allow_credentials) grant['Access-Control-Allow-Credentials'] = 'true'
    return grant
  }

  const preflight = (req: IncomingMessage): Record<string, string> => {
    const grant = granted(req.headers.origin)
    const method = req.headers['access-control-request-method']
    const asked = words(req.headers['access-control-request-headers'])
    if (!grant || method === undefined || !methods.has(method) || !asked.every(name => headers.has(name.toLowerCase()))) return {}
    return {
      Vary: 'Origin',
      ...grant,
      ...(config.max_age ? { 'Access-Control-Max-Age': `${config.max_age}` } : {}),
      'Access-Control-Allow-Methods': method,
      ...(asked.length ? { 'Access-Control-Allow-Headers': asked.join(',') } : {}),
    }
  }

  return (req, res) => {
    if (req.method === 'OPTIONS') {
      res.writeHead(200, { ...preflight(req), 'Content-Length': 0 }).end()
      return true
    }
    const grant = granted(req.headers.origin)
    if (grant) addToHead(res, exposed ? { ...grant, 'Access-Control-Expose-Headers': exposed } : grant)
    return false
  }
}

const words = (value: string | undefined): string[] =>
  (value ?? '')
    .split(',')
    .map(word => word.trim())
    .filter(word => word !== '')

/** The head of the answer, when it is written, also has these; a cache must know that it depends on the origin. */
function addToHead(res: ServerResponse, added: Record<string, string>): void {
  const write = res.writeHead
  res.writeHead = ((status: number, given: OutgoingHttpHeaders = {}) => {
    const vary = given.Vary === undefined ? 'Origin' : `${given.Vary},Origin`
    return write.call(res, status, { ...given, ...added, Vary: vary })
  }) as typeof write
}
