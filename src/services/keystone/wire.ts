import { type Fault, forbidden } from '#kit/fault.ts'
import type { Wire } from '#kit/service.ts'

const TITLES: Record<number, string> = {
  400: 'Bad Request',
  401: 'Unauthorized',
  403: 'Forbidden',
  404: 'Not Found',
  405: 'Method Not Allowed',
  406: 'Not Acceptable',
  409: 'Conflict',
  410: 'Gone',
  413: 'Request Entity Too Large',
  415: 'Unsupported Media Type',
  429: 'Too Many Requests',
  500: 'Internal Server Error',
  501: 'Not Implemented',
  503: 'Service Unavailable',
}

/** `{"error": {"code", "message", "title"}}`, and the headers that no cache may mix up answers. */
export const wire: Wire = {
  fault(fault: Fault, { path }) {
    // A login of several steps is answered with what was proven so far, not with an error.
    if (fault.details.type === 'receipt') return { body: fault.details.extra }
    // Clients of OAuth 2.0 know the words of its own RFC alone.
    if (/\/OS-OAUTH2\/token\/?$/.test(path)) return { body: { error: 'other_error', error_description: fault.message } }
    const title = TITLES[fault.status] ?? fault.message
    return { body: { error: { code: fault.status, message: fault.message, title, ...fault.details.extra } } }
  },
  denied: rule => forbidden(`You are not authorized to perform the requested action: ${rule}.`),
  headers: () => ({ Vary: 'X-Auth-Token' }),
}

/** A time as identity writes it: microseconds, of which the last three digits are zero, and `Z`. */
export const isoTime = (date: Date): string => `${date.toISOString().slice(0, -1)}000Z`
/** The same from seconds since 1970. */
export const isoSeconds = (seconds: number): string => isoTime(new Date(seconds * 1000))
/** A password's expiry has no zone letter. */
export const isoBare = (date: Date): string => isoTime(date).slice(0, -1)
