/**
 * Faults: the about one dozen ways in which a request can fail, thrown anywhere and rendered once, by the `wire.ts` of the service
 * whose route was called. Code behind the edge never names an HTTP status or an error envelope.
 */

const STATUS = {
  badRequest: 400,
  unauthorized: 401,
  forbidden: 403,
  overQuota: 403,
  notFound: 404,
  methodNotAllowed: 405,
  notAcceptable: 406,
  timeout: 408,
  conflict: 409,
  gone: 410,
  preconditionFailed: 412,
  tooLarge: 413,
  unsupportedMedia: 415,
  rangeNotSatisfiable: 416,
  tooMany: 429,
  internal: 500,
  notImplemented: 501,
  unavailable: 503,
} as const

export type FaultKind = keyof typeof STATUS

export interface FaultDetails {
  /** The service's own name of the error, e.g. Neutron's `NetworkInUse`, where the wire shows one. */
  type?: string
  /** A stable machine code, e.g. Placement's `placement.inventory.inuse`. */
  code?: string
  /** The field of the request that is wrong, as a path (`server.name`). */
  field?: string
  /** Extra response headers, e.g. `Retry-After`. */
  headers?: Record<string, string>
  /** Extra members of the error envelope where a service's wire has them (e.g. 406's max_version). */
  extra?: Record<string, unknown>
  /** Another HTTP status than the kind's own, where an API demands one. */
  status?: number
  cause?: unknown
}

/** A failure with a kind and a sentence for the one who can act on it. The message reaches the client: never put secrets into it. */
export class Fault extends Error {
  readonly kind: FaultKind
  readonly status: number
  readonly details: FaultDetails
  constructor(kind: FaultKind, message: string, details: FaultDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
    this.name = 'Fault'
    this.kind = kind
    this.status = details.status ?? STATUS[kind]
    this.details = details
  }
}

const kind =
  (k: FaultKind) =>
  (message: string, details?: FaultDetails): Fault =>
    new Fault(k, message, details)

export const badRequest = kind('badRequest')
export const unauthorized = kind('unauthorized')
export const forbidden = kind('forbidden')
export const overQuota = kind('overQuota')
export const notFound = kind('notFound')
export const methodNotAllowed = kind('methodNotAllowed')
export const notAcceptable = kind('notAcceptable')
export const timeout = kind('timeout')
export const conflict = kind('conflict')
export const gone = kind('gone')
export const preconditionFailed = kind('preconditionFailed')
export const tooLarge = kind('tooLarge')
export const unsupportedMedia = kind('unsupportedMedia')
export const rangeNotSatisfiable = kind('rangeNotSatisfiable')
export const tooMany = kind('tooMany')
export const internal = kind('internal')
export const notImplemented = kind('notImplemented')
export const unavailable = kind('unavailable')

/** A fault of this kind by name, for faults that crossed the agent link. Unknown kinds become `internal`. */
export function faultOf(kindName: string, message: string, details?: FaultDetails): Fault {
  return new Fault(Object.hasOwn(STATUS, kindName) ? (kindName as FaultKind) : 'internal', message, details)
}

/** The text of anything thrown, with its causes, for logs and reasons. */
export function reason(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const cause = error.cause === undefined ? '' : `: ${reason(error.cause)}`
  return `${error.message}${cause}`
}
