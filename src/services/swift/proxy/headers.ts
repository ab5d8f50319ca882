/** Which headers pass through the proxy, in and out. */
import type { Headers, Req } from '../http/message.ts'

/** Shown to, and settable by, owners of the account only. */
export const OWNER_HEADERS = [
  'x-container-read',
  'x-container-write',
  'x-container-sync-key',
  'x-container-sync-to',
  'x-account-meta-temp-url-key',
  'x-account-meta-temp-url-key-2',
  'x-container-meta-temp-url-key',
  'x-container-meta-temp-url-key-2',
  'x-account-access-control',
]

/** Leaves out what only the owner may see. */
export function withoutOwners(headers: Headers, req: Req): Headers {
  if (req.env.owner) return headers
  const out = { ...headers }
  for (const name of OWNER_HEADERS) delete out[name]
  return out
}

/** Takes out of a request what only the owner may set, once it is known who asks. In place. */
export function dropOwners(req: Req): void {
  if (req.env.owner || req.env.authorize === null) return
  for (const name of OWNER_HEADERS) {
    delete req.headers[name]
    delete req.headers[name.replace('x-', 'x-remove-')]
  }
}

/** Metadata of a POST or PUT that goes on to the servers; `X-Remove-*` becomes an empty value. */
export function transfer(req: Req, kind: 'account' | 'container', also: string[] = []): Headers {
  const out: Headers = {}
  const meta = `x-${kind}-meta-`
  const removal = `x-remove-${kind}-meta-`
  const sys = `x-${kind}-sysmeta-`
  for (const name in req.headers) {
    if (name.startsWith(removal)) out[name.replace('x-remove-', 'x-')] ??= ''
    else if (name.startsWith(meta) || name.startsWith(sys) || also.includes(name)) out[name] = req.headers[name]
    else if (name.startsWith('x-remove-') && also.includes(name.replace('x-remove-', 'x-')))
      out[name.replace('x-remove-', 'x-')] = ''
  }
  return out
}

const HIDDEN_IN = ['x-account-sysmeta-', 'x-container-sysmeta-', 'x-object-sysmeta-', 'x-object-transient-sysmeta-', 'x-backend']
/** A client's own `X-Timestamp`, which only container sync may look at. */
export const INBOUND_TIME = 'x-backend-inbound-x-timestamp'

/** What a client may not say: the store's own headers. In place. */
export function gateIn(headers: Headers): void {
  const time = headers['x-timestamp']
  for (const name in headers) {
    if (name.startsWith('x-') && (name === 'x-timestamp' || HIDDEN_IN.some(prefix => name.startsWith(prefix))))
      delete headers[name]
  }
  if (time !== undefined) headers[INBOUND_TIME] = time
}

/** What a client does not see. */
export function gateOut(headers: Headers): Headers {
  const out: Headers = {}
  for (const name in headers) {
    if (name.startsWith('x-') && HIDDEN_IN.some(prefix => name.startsWith(prefix))) continue
    out[name] = headers[name]
  }
  return out
}
