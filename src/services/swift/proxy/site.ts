/** A proxy as a whole: its cluster, how users prove who they are, and the settings of each step of its pipeline. */
import type { App, Req, Who } from '../http/message.ts'
import type { Cluster } from './cluster.ts'

export interface TempUser {
  account: string
  user: string
  key: string
  /** `.admin`, `.reseller_admin`, or groups of the operator's own. */
  groups: string[]
}

export interface KeystoneAuth {
  /** Who a token belongs to; null when it is not valid. */
  authenticate(token: string): Promise<Who | null>
  /** EC2 credentials: the secret of an access key and whom it stands for. */
  ec2?(accessKey: string): Promise<{ secret: string; who: Who } | null>
  operatorRoles: string[]
  resellerRoles: string[]
  /** Roles of a service token that open accounts of further prefixes (`SERVICE_`). */
  serviceRoles: string[]
}

export interface Realm {
  name: string
  key: string
  key2?: string
  /** Endpoint of each cluster, with `/v1/`. */
  clusters: Record<string, string>
}

export interface ProxySettings {
  /** `AUTH_` and further reseller prefixes. */
  prefixes: string[]
  tempauth: { users: TempUser[]; tokenLife: number } | null
  keystone: KeystoneAuth | null
  /** Hex of the secret that signs `/info?swiftinfo_sig=`; null: no admin sections. */
  infoAdminKey: string | null
  hiddenInfo: string[]
  realms: Realm[]
  /** `realm/cluster` of this cluster. */
  currentRealm: string | null
  tempurlMethods: string[]
  digests: string[]
  storageDomain: string | null
  cnameLookup: boolean
  corsOrigins: string[]
  strictCors: boolean
  readOnly: boolean
  /** Characters and the pattern that names may not have; null: off. */
  nameCheck: { forbiddenChars: string; maximumLength: number; forbiddenPattern: string } | null
  accountRate: number
  /** Container sizes and the writes per second that they allow, ascending: `[[100, 50]]`. */
  containerRates: [size: number, rate: number][]
  /** Root secrets of encryption by id, 32 bytes or more each; null: off. The active one encrypts. */
  encryption: { secrets: Record<string, Buffer>; active: string } | null
  etagQuoter: boolean
  /** `auto`: all large containers are split, not only those that were asked for. Containers split at `threshold` objects and join below `shrinkPoint` of it. */
  sharding: { auto: boolean; threshold: number; rowsPerShard: number; shrinkPoint: number }
  s3: { region: string; domain: string | null; minPartSize: number; maxParts: number; checkClock: number } | null
  segmentLimits: { maxManifestSegments: number; maxManifestSize: number; minSegmentSize: number }
  bulk: { maxExtract: number; maxDeletes: number; maxFailed: number }
  crossdomain: string
  healthDisablePath: string | null
  accessLog: boolean
  clientTimeout: number
}

export interface Site {
  cluster: Cluster
  settings: ProxySettings
  /** What `/info` shows. */
  info: Record<string, unknown>
}

/** A step of the pipeline: what it does before and after the rest. */
export type Step = (next: App, site: Site) => App

/** The parts of `/v1/a/c/o`; null for paths outside. */
export function pathOf(req: Req): { version: string; account: string; container: string | null; object: string | null } | null {
  const { path } = req
  const first = path.indexOf('/', 1)
  if (first < 0) return null
  const version = path.slice(1, first)
  if (version !== 'v1' && version !== 'v1.0') return null
  const second = path.indexOf('/', first + 1)
  const account = second < 0 ? path.slice(first + 1) : path.slice(first + 1, second)
  if (!account) return null
  if (second < 0 || second === path.length - 1) return { version, account, container: null, object: null }
  const third = path.indexOf('/', second + 1)
  const container = third < 0 ? path.slice(second + 1) : path.slice(second + 1, third)
  if (!container) return null
  return { version, account, container, object: third < 0 || third === path.length - 1 ? null : path.slice(third + 1) }
}
