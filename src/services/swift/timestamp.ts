/**
 * Swift's timestamps: seconds with five decimals as a fixed-width string (`1234567890.12345`), optionally with an offset
 * (`1234567890.12345_0000000000000001`) that orders what the store itself does after the user's own action. They order as strings.
 */

let last = 0

/** Now, in units of 10 microseconds; never the same twice in one process. */
function tick(): number {
  const now = Math.floor((performance.timeOrigin + performance.now()) * 100)
  last = now > last ? now : last + 1
  return last
}

/** A fresh timestamp, larger than every earlier one of this process. */
export function now(): string {
  return fromTicks(tick())
}

const fromTicks = (ticks: number): string => {
  const seconds = Math.floor(ticks / 100000)
  return `${String(seconds).padStart(10, '0')}.${String(ticks % 100000).padStart(5, '0')}`
}

/** The canonical form of a number of seconds or of a timestamp in any form. Throws RangeError for anything else. */
export function normal(value: string | number): string {
  if (typeof value === 'number') return fromTicks(Math.round(value * 100000))
  const [base, offset] = value.split('_')
  if (!/^\d{1,11}(\.\d+)?$/.test(base)) throw new RangeError(`Invalid X-Timestamp header: ${value}`)
  const dot = base.indexOf('.')
  const whole = dot < 0 ? base : base.slice(0, dot)
  const part = dot < 0 ? '' : base.slice(dot + 1)
  const plain = `${whole.padStart(10, '0')}.${part.slice(0, 5).padEnd(5, '0')}`
  if (offset === undefined) return plain
  if (!/^[0-9a-f]{1,16}$/i.test(offset)) throw new RangeError(`Invalid X-Timestamp header: ${value}`)
  return /^0+$/.test(offset) ? plain : `${plain}_${offset.toLowerCase().padStart(16, '0')}`
}

/** Without its offset. */
export const base = (timestamp: string): string => timestamp.slice(0, 16)

/** With an offset added to the one it has. */
export function shifted(timestamp: string, by: number): string {
  const [plain, offset] = timestamp.split('_')
  const sum = (offset ? Number.parseInt(offset, 16) : 0) + by
  return sum ? `${plain}_${sum.toString(16).padStart(16, '0')}` : plain
}

/** A timestamp moved by whole units of 10 microseconds. */
export const moved = (timestamp: string, ticks: number): string => fromTicks(toTicks(timestamp) + ticks)

/** Units of 10 microseconds since 1970. */
export const toTicks = (timestamp: string): number => Number(timestamp.slice(0, 10)) * 100000 + Number(timestamp.slice(11, 16))

/** Seconds since 1970. */
export const seconds = (timestamp: string): number => toTicks(timestamp) / 100000

/** The timestamp of that many seconds ago. */
export const ago = (secondsAgo: number): string => normal(Math.max(0, Date.now() / 1000 - secondsAgo))

/** As in listings: `2026-11-22T17:04:56.123450`. */
export function iso(timestamp: string): string {
  const date = new Date(Number(timestamp.slice(0, 10)) * 1000).toISOString().slice(0, 19)
  return `${date}.${timestamp.slice(11, 16)}0`
}

/** As in `Last-Modified`: whole seconds, rounded up, so that a later `If-Modified-Since` with it holds. */
export const httpDate = (timestamp: string): string => new Date(Math.ceil(seconds(timestamp)) * 1000).toUTCString()

/** One name for the times of a `.meta` file: its own, and the difference to that of its content type where that is another. */
export function encodePair(first: string, second: string | null): string {
  if (second === null) return first
  const delta = toTicks(second) - toTicks(first)
  return `${first}${delta < 0 ? '-' : '+'}${Math.abs(delta).toString(16)}`
}

/** The inverse of `encodePair`: [first, second]; second is null when absent. */
export function decodePair(name: string): [string, string | null] {
  const cut = name.search(/[+-]/)
  if (cut < 0) return [name, null]
  const first = name.slice(0, cut)
  const delta = Number.parseInt(name.slice(cut + 1), 16)
  return [first, fromTicks(toTicks(first) + (name[cut] === '-' ? -delta : delta))]
}
