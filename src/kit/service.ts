/** What a service is to the rest of the program: one value that lists everything it has. Nothing registers itself. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import type { Audit } from './audit.ts'
import type { Config, Settings } from './config.ts'
import type { Db, Migration } from './db/index.ts'
import type { Subscription } from './events.ts'
import type { Fault } from './fault.ts'
import type { Route } from './http/route.ts'
import type { Complaint } from './http/schema.ts'
import type { Microversions } from './http/version.ts'
import type { Hosts, Served } from './link/index.ts'
import type { Log } from './log.ts'
import type { PolicyRule } from './policy/index.ts'
import type { Saga } from './saga/index.ts'
import type { Task } from './task.ts'

/** What a controller process runs with, passed as an argument to everything that needs it. */
export interface Env {
  readonly db: Db
  readonly log: Log
  readonly config: Config
  readonly hosts: Hosts
}

/** How a service speaks on the wire where services differ: its error envelope and standing headers. */
export interface Wire {
  /** Renders a fault: the body of its error envelope, and a status where the service's differs from the fault's own. */
  fault(
    fault: Fault,
    about: { version: number; requestId: string; path: string },
  ): {
    status?: number
    headers?: Record<string, string>
    body: unknown
  }
  /** Header that carries the request id in answers; `x-openstack-request-id` unless given. */
  requestIdHeaders?: readonly string[]
  /** How a schema violation is told, where the default sentence is not this service's. */
  complain?: Complaint
  /** The refusal by policy in this service's own words. */
  denied?: (rule: string) => Fault
  /** Headers of every answer. */
  headers?(about: { version: number }): Record<string, string>
}

/** A handler below HTTP routing, for a service whose requests are not JSON (object storage). `path` has the service's prefix cut off. */
export type RawHandler = (env: Env, req: IncomingMessage, res: ServerResponse, path: string) => void
/** Takes over a connection that asked for an upgrade (WebSocket). Returns false if the path is not its own. */
export type UpgradeHandler = (env: Env, req: IncomingMessage, socket: Duplex, head: Buffer, path: string) => boolean

export interface Service {
  /** Project name: `nova`. Also the PostgreSQL schema of its tables. */
  readonly name: string
  /** Catalog type: `compute`. */
  readonly type: string
  /** Path prefix on the one port: `/compute`. */
  readonly prefix: string
  /** What stands between the prefix and each route's path: `['/v2.1', '/v2.1/:project_id']`. */
  readonly mounts: readonly string[]
  readonly wire: Wire
  /** Whether a path with a slash too many at its end is another path, which is not there. */
  readonly exactPaths?: boolean
  readonly microversions?: Microversions
  readonly routes: readonly Route[]
  readonly policies: readonly PolicyRule[]
  readonly migrations: readonly Migration[]
  readonly settings?: Settings
  readonly sagas?: readonly Saga<never>[]
  readonly tasks?: readonly Task[]
  readonly on?: readonly Subscription[]
  /** What host agents may ask of the controller. */
  readonly hostVerbs?: readonly Served<Env>[]
  /** What must agree, and what takes longer than it should. */
  readonly audit?: Audit
  readonly raw?: RawHandler
  readonly upgrade?: UpgradeHandler
  /** Runs once when a controller starts, before requests are taken. Returns what stops it. */
  start?(env: Env): Promise<(() => Promise<void>) | undefined>
}
