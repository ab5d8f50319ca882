import type { Fault } from '#kit/fault.ts'
import type { Wire } from '#kit/service.ts'

/** Names of errors that have none of their own: those of WebOb, as clients know them. */
const NAMES: Record<number, string> = {
  400: 'HTTPBadRequest',
  401: 'HTTPUnauthorized',
  403: 'HTTPForbidden',
  404: 'HTTPNotFound',
  405: 'HTTPMethodNotAllowed',
  409: 'HTTPConflict',
  412: 'HTTPPreconditionFailed',
  413: 'HTTPRequestEntityTooLarge',
  415: 'HTTPUnsupportedMediaType',
  500: 'HTTPInternalServerError',
  501: 'HTTPNotImplemented',
  503: 'HTTPServiceUnavailable',
}

/** Networking's envelope: `{ NeutronError: { type, message, detail } }`. */
export const wire: Wire = {
  fault(fault: Fault) {
    // Requests that keystonemiddleware refuses never reached Neutron: they have the middleware's envelope.
    if (fault.status === 401) return { body: { error: { code: 401, title: 'Unauthorized', message: fault.message } } }
    const type = fault.details.type ?? NAMES[fault.status] ?? 'HTTPInternalServerError'
    return { body: { NeutronError: { type, message: fault.message, detail: '' } } }
  },
}
