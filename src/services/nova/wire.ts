/** How nova speaks on the wire: its error envelope, `{"itemNotFound": {"code": 404, "message": "…"}}`, links, timestamps. */
import { forbidden } from '#kit/fault.ts'
import type { Call } from '#kit/http/route.ts'
import type { Wire } from '#kit/service.ts'

const NAMES: Record<number, string> = {
  400: 'badRequest',
  401: 'unauthorized',
  403: 'forbidden',
  404: 'itemNotFound',
  405: 'badMethod',
  409: 'conflictingRequest',
  413: 'overLimit',
  415: 'badMediaType',
  429: 'overLimit',
  501: 'notImplemented',
  503: 'serviceUnavailable',
}

export const wire: Wire = {
  fault(fault) {
    const body: Record<string, unknown> = { code: fault.status, message: fault.message }
    if (fault.status === 413 || fault.status === 429) body.retryAfter = fault.details.headers?.['Retry-After'] ?? '0'
    return { body: { [NAMES[fault.status] ?? 'computeFault']: body } }
  },
  denied: rule => forbidden(`Policy doesn't allow ${rule} to be performed.`),
  requestIdHeaders: ['X-Compute-Request-Id', 'X-Openstack-Request-Id'],
}

/** A timestamp as most of nova's answers show it: whole seconds, `2026-11-22T17:04:52Z`. */
export const isoTime = (at: Date): string => `${at.toISOString().slice(0, 19)}Z`
/** A timestamp as nova shows it where it prints the bare value: microseconds, no zone. */
export const bareTime = (at: Date): string => `${at.toISOString().slice(0, -1)}000`

type Linking = Pick<Call, 'self' | 'params'>
export interface Link {
  rel: string
  href: string
}

/** Makes the links of many things of one collection: the origin is looked up once. */
export function linker({ self, params }: Linking, collection: string): (id: string) => Link[] {
  const href = self(`/${collection}/`)
  const bookmark = bookmarkBase({ self, params }, collection)
  return id => [
    { rel: 'self', href: href + id },
    { rel: 'bookmark', href: bookmark + id },
  ]
}

/** Where bookmarks of a collection begin: the URL without the API's version. */
export function bookmarkBase({ self, params }: Linking, collection: string): string {
  return self(`/${collection}/`, params.project_id ? `/${encodeURIComponent(params.project_id)}` : '')
}

/** The link to the page after this one: the same query with another marker. `path` as in the route: `/servers/detail`. */
export function nextLink(call: Pick<Call, 'self' | 'search'>, path: string, marker: string): Link[] {
  const query = new URLSearchParams([...call.search].filter(([name]) => name !== 'marker'))
  query.set('marker', marker)
  query.sort()
  return [{ rel: 'next', href: `${call.self(path)}?${query}` }]
}
