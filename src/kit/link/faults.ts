/** Errors of the link itself, and how errors cross it. */
import { Fault, type FaultDetails, faultOf, notImplemented, reason, timeout, tooLarge, unavailable } from '#kit/fault.ts'
import { MAX_FRAME } from './wire.ts'

/** What happened to a call that got no answer; the fault's `details.code`. */
export type LinkCode = 'link.down' | 'link.lost' | 'link.busy' | 'link.refused' | 'link.deadline' | 'link.size'

/** Which call failed: its verb, the far end, and how long ago it was asked (milliseconds). */
export interface Asked {
  far: string
  verb: string
  age: number
}

const said = ({ far, verb, age }: Asked): string => `${verb} on ${far}, asked ${ago(age)} ago`

/** Milliseconds for people: `12 ms`, `3.4 s`, `7 min`, `2 h`, `3 days`. */
export function ago(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)} ms`
  if (ms < 100_000) return `${(ms / 1000).toFixed(1)} s`
  if (ms < 5_400_000) return `${Math.round(ms / 60_000)} min`
  return ms < 172_800_000 ? `${Math.round(ms / 3_600_000)} h` : `${Math.round(ms / 86_400_000)} days`
}

/** Faults made by this end: a handler at the far end may pass on a `link.*` fault of its own, which says nothing about this link. */
const ours = new WeakMap<Error, LinkCode>()
function mine(code: LinkCode, kind: typeof unavailable, message: string, status?: number): Fault {
  const fault = kind(message, { code, ...(status && { status }) })
  ours.set(fault, code)
  return fault
}

/** Not connected, so nothing was asked. `seen` is when the far end was last there, if known. */
export const linkDown = (far: string, verb: string, seen: Date | null): Fault =>
  mine(
    'link.down',
    unavailable,
    `${verb} on ${far}: not connected, ${seen ? `last seen ${ago(Date.now() - seen.getTime())} ago` : 'never seen'}.`,
  )
/** The link broke before the answer came: whether the action ran is unknown. */
export const linkLost = (asked: Asked, why: string): Fault =>
  mine('link.lost', unavailable, `${said(asked)}: the link was lost (${why}).`)
/** Too many calls are waiting already: nothing was asked. */
export const linkBusy = (asked: Asked): Fault =>
  mine('link.busy', unavailable, `${said(asked)}: too many calls are waiting for this link.`)
/** The far end does not serve the verb. */
export const linkRefused = (asked: Asked): Fault =>
  mine('link.refused', notImplemented, `${said(asked)}: refused, nothing there serves this verb.`)
/** No answer in time; the action was told to stop. */
export const linkDeadline = (asked: Asked): Fault =>
  mine('link.deadline', timeout, `${said(asked)}: no answer by its deadline.`, 504)
/** Arguments or result do not fit into a frame. */
export const linkSize = (verb: string, what: string, bytes: number): Fault =>
  mine('link.size', tooLarge, `${verb}: ${what} of ${bytes} bytes do not fit the link's limit of ${MAX_FRAME}.`)

/** The code of an error that this end of a link made, or undefined for any other, also for one that a far handler passed on. */
export function linkCode(error: unknown): LinkCode | undefined {
  return error instanceof Error ? ours.get(error) : undefined
}

/** An error as it crosses: kind, message and details. */
export interface WireFault {
  kind: string
  message: string
  details?: Record<string, unknown>
}

const MAX_MESSAGE = 16 * 1024
const MAX_DETAILS = 64 * 1024

/** Own fields of a tool's error that say something (`argv`, `exitCode`, `stderr`, `code`), as far as they are plain. */
function plainFields(error: Error): Record<string, unknown> {
  const plain: Record<string, unknown> = {}
  for (const [name, value] of Object.entries(error)) {
    const ok =
      ['string', 'number', 'boolean'].includes(typeof value) || (Array.isArray(value) && value.every(v => typeof v === 'string'))
    if (ok && name !== 'name' && name !== 'message' && name !== 'stack')
      plain[name] = typeof value === 'string' ? clip(value) : value
  }
  return plain
}

/** The end of a long text says more than its start: that is where a tool says why it stopped. */
const clip = (text: string): string => (text.length <= MAX_MESSAGE ? text : `… ${text.slice(-MAX_MESSAGE)}`)

/** What to send for anything thrown. A Fault crosses whole, but for its cause; other errors as `internal` with their text and plain fields. */
export function faultEncode(error: unknown): WireFault {
  let kind = 'internal'
  let details: Record<string, unknown> = {}
  if (error instanceof Fault) {
    const { cause: _, ...rest } = error.details
    kind = error.kind
    details = rest
  } else if (error instanceof Error) {
    const fields = plainFields(error)
    if (Object.keys(fields).length > 0) details = { extra: fields }
  }
  const wire: WireFault = { kind, message: clip(reason(error)) }
  const text = JSON.stringify(details)
  if (text.length > MAX_DETAILS) wire.details = { extra: { left_out: `${text.length} bytes of details` } }
  else if (text !== '{}') wire.details = details
  return wire
}

/** The Fault that a far end threw. Details are copied by name and type: the far end is not trusted to shape ours. */
export function faultDecode({ kind, message, details }: WireFault): Fault {
  const own: FaultDetails = {}
  if (typeof details?.type === 'string') own.type = details.type
  if (typeof details?.code === 'string') own.code = details.code
  if (typeof details?.field === 'string') own.field = details.field
  if (typeof details?.status === 'number' && details.status >= 400 && details.status < 600)
    own.status = Math.trunc(details.status)
  if (isRecord(details?.extra)) own.extra = details.extra
  if (isRecord(details?.headers)) {
    own.headers = Object.fromEntries(
      Object.entries(details.headers).filter((h): h is [string, string] => typeof h[1] === 'string'),
    )
  }
  return faultOf(kind, message, own)
}

const isRecord = (v: unknown): v is Record<string, unknown> => typeof v === 'object' && v !== null && !Array.isArray(v)
