/** The settings of a proxy with every default. */
import { LIMITS } from './constraints.ts'
import type { ProxySettings } from './proxy/site.ts'

export const DEFAULTS: ProxySettings = {
  prefixes: ['AUTH_'],
  tempauth: null,
  keystone: null,
  infoAdminKey: null,
  hiddenInfo: [],
  realms: [],
  currentRealm: null,
  tempurlMethods: ['GET', 'HEAD', 'PUT', 'POST', 'DELETE'],
  digests: ['sha1', 'sha256', 'sha512'],
  storageDomain: null,
  cnameLookup: false,
  corsOrigins: [],
  strictCors: true,
  readOnly: false,
  nameCheck: null,
  accountRate: 0,
  containerRates: [],
  encryption: null,
  etagQuoter: false,
  sharding: { auto: false, threshold: 1_000_000, rowsPerShard: 500_000, shrinkPoint: 0.1 },
  s3: null,
  segmentLimits: { maxManifestSegments: 1000, maxManifestSize: 8 * 1024 * 1024, minSegmentSize: 1 },
  bulk: { maxExtract: 10000, maxDeletes: 10000, maxFailed: 1000 },
  crossdomain: '<allow-access-from domain="*" secure="false" />',
  healthDisablePath: null,
  accessLog: true,
  clientTimeout: 60,
}

export { LIMITS }
