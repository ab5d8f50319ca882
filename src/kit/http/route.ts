/**
 * A route answers a request. It is a value: what it takes, who may, what it does. The kit checks version, token, target, policy and
 * schema in that order before `handle` runs, so a handler holds nothing but the meaning of the call and throws Faults.
 */
import type { IncomingHttpHeaders } from 'node:http'
import type { Readable } from 'node:stream'
import type { Context } from '../context.ts'
import type { Query } from '../db/index.ts'
import type { Env } from '../service.ts'
import type { Static, TSchema } from './schema.ts'

export type Method = 'GET' | 'HEAD' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'

/** What a handler is given. */
export interface Call<Q = unknown, B = unknown, T = unknown> {
  readonly ctx: Context
  readonly env: Env
  /** The pool, for reading: `env.db.read`. Writes go through `env.db.tx`. */
  readonly db: Query
  /** Path parameters, decoded. */
  readonly params: Readonly<Record<string, string>>
  readonly query: Q
  readonly body: B
  readonly target: T
  /** The minor microversion that was negotiated; 0 for services without. */
  readonly version: number
  readonly headers: IncomingHttpHeaders
  readonly method: Method
  /** Raw path and query as they were sent. */
  readonly url: string
  /** An absolute URL of this service: `self('/servers/1')` under the mount that was called, `self('/', '')` under none. */
  self(path: string, mount?: string): string
  /** The query string as it was sent, for repeated and odd parameters. */
  readonly search: URLSearchParams
  /** The request body as a stream, for routes with `raw: true`. */
  readonly stream: Readable
  /** Aborted when the client goes away. */
  readonly signal: AbortSignal
  /** What the answer carries beside its body. */
  readonly reply: Reply
}

export interface Reply {
  /** Overrides the route's `success`. */
  status?: number
  readonly headers: Record<string, string | number | string[]>
}

/** A body of bytes: returned by a handler in place of an object. `length` in bytes gives Content-Length. */
export interface ByteBody {
  readonly bytes: Readable | Buffer | string
  readonly length?: number
  readonly type?: string
}

const BYTES = Symbol('bytes')

/** Answers with bytes instead of JSON: `return bytes(stream, { type: 'application/octet-stream', length })`. */
export function bytes(body: ByteBody['bytes'], options: { length?: number; type?: string } = {}): ByteBody {
  return { [BYTES]: true, bytes: body, ...options } as ByteBody
}

/** Whether a handler's result was made by {@link bytes}. */
export const isBytes = (value: unknown): value is ByteBody => typeof value === 'object' && value !== null && BYTES in value

type Of<S> = S extends TSchema ? Static<S> : unknown

/** See {@link route}. */
export interface RouteSpec<Q, B, T> {
  method: Method
  /** Below the service's mounts: `/servers/:id`. A last `*` takes the rest of the path. */
  path: string
  /** Status of a success; 200 unless given. */
  success?: number
  /** The first and last microversion that have this route. Two routes of one method and path must have disjoint ranges. */
  since?: number
  until?: number
  /** Of several routes on one method and path, the one for bodies with this key: `{"os-start": null}`. */
  action?: string
  /** Rule that the caller must satisfy against the target; null: anyone with a token (the handler decides). */
  policy: string | null
  /** `none`: no token is looked at. `optional`: a bad or absent token gives an anonymous context. */
  auth?: 'token' | 'none' | 'optional'
  query?: Q
  body?: B
  /** The shape of a body that the handler itself checks, for the reference and for tests: nothing is refused by it. */
  takes?: TSchema
  /** Loads what the path names: throws notFound. Becomes the policy's target and the handler's `target`. */
  target?: (call: Call<unknown, unknown, undefined>) => Promise<T> | T
  /** The attributes that policy sees where they are not the target's own. */
  policyTarget?: (call: Call<unknown, unknown, T>) => Record<string, unknown>
  /** The body is not parsed: `stream` has it, of any size. */
  raw?: true
  /** Largest JSON body in bytes; 114,688 (oslo.middleware's max_request_body_size) unless given. */
  bodyLimit?: number
  /** Media types of a body other than application/json that are JSON too. */
  media?: string[]
  /** Mounts other than the service's: `['']` for the version list at the service's root. */
  mounts?: string[]
  /** One sentence for the reference. */
  summary?: string
  handle(call: Call<Of<Q>, Of<B>, T>): Promise<unknown> | unknown
}

/** A route of whatever types: what a service's table of contents lists. */
export type Route = Omit<RouteSpec<TSchema | undefined, TSchema | undefined, unknown>, 'handle' | 'target' | 'policyTarget'> & {
  target?(call: Call): Promise<unknown> | unknown
  policyTarget?(call: Call): Record<string, unknown>
  handle(call: Call): Promise<unknown> | unknown
}

/** Declares a route. See {@link RouteSpec}. */
export function route<Q extends TSchema | undefined = undefined, B extends TSchema | undefined = undefined, T = undefined>(
  spec: RouteSpec<Q, B, T>,
): Route {
  return spec as unknown as Route
}
