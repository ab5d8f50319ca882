/** The store's requests to itself, through its own pipeline and without a token. */
import { type Headers, ownEnv, type Query, quote, type Req } from './http/message.ts'

/** A request that is allowed everything. `path` is decoded. */
export function request(
  method: string,
  path: string,
  options: { query?: Query; headers?: Headers; body?: AsyncIterable<Buffer> | null; length?: number | null } = {},
): Req {
  const length = options.length === undefined ? 0 : options.length
  return {
    method,
    path,
    rawPath: quote(path),
    query: options.query ?? new Map(),
    headers: {
      ...options.headers,
      ...(length === null ? { 'transfer-encoding': 'chunked' } : { 'content-length': String(length) }),
    },
    body: options.body ?? null,
    length,
    env: { ...ownEnv('internal'), authorizeOverride: true },
  }
}
