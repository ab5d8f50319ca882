/** The proxy: every step between the client and the servers, in the order in which a request meets them. Read it from top to bottom. */
import { keystoneauth } from '../auth/keystone.ts'
import { accountAcl, tempauth } from '../auth/tempauth.ts'
import type { App } from '../http/message.ts'
import { s3api } from '../s3/step.ts'
import { bulk } from './features/bulk.ts'
import { containerSync } from './features/containersync.ts'
import { copy } from './features/copy.ts'
import { cors } from './features/cors.ts'
import { discovery } from './features/discovery.ts'
import { dlo } from './features/dlo.ts'
import { edge } from './features/edge.ts'
import { encryption } from './features/encryption.ts'
import { formpost } from './features/formpost.ts'
import { etagQuoter, nameCheck, readOnly } from './features/guards.ts'
import { history } from './features/history.ts'
import { cnameLookup, domainRemap } from './features/hosting.ts'
import { listings } from './features/listings.ts'
import { quotas } from './features/quotas.ts'
import { ratelimit } from './features/ratelimit.ts'
import { slo } from './features/slo.ts'
import { staticweb } from './features/staticweb.ts'
import { symlink } from './features/symlink.ts'
import { tempurl } from './features/tempurl.ts'
import { versions } from './features/versions.ts'
import { proxyServer } from './server.ts'
import type { Site, Step } from './site.ts'

/** The steps of a site, outermost first. Those that its settings leave out are not there at all. */
export function steps(site: Site): Step[] {
  const { settings } = site
  const all: (Step | false)[] = [
    edge, // transaction ids, the gate for hidden headers, access log, whatever was thrown
    settings.nameCheck !== null && nameCheck,
    discovery, // /healthcheck /info /crossdomain.xml /v1/endpoints
    settings.storageDomain !== null && settings.cnameLookup && cnameLookup,
    settings.storageDomain !== null && domainRemap,
    cors,
    etagQuoter,
    listings, // text, JSON, XML
    containerSync,
    bulk, // archives in, many deletes
    tempurl,
    formpost,
    (settings.accountRate > 0 || settings.containerRates.length > 0) && ratelimit,
    settings.s3 !== null && s3api,
    settings.tempauth !== null && tempauth,
    settings.keystone !== null && keystoneauth,
    accountAcl,
    staticweb,
    copy, // COPY and X-Copy-From
    readOnly,
    quotas,
    slo, // static large objects
    dlo, // dynamic large objects
    history, // X-Versions-Location
    versions, // X-Versions-Enabled
    symlink,
    settings.encryption !== null && encryption, // innermost: everything above sees plain text
  ]
  return all.filter(step => step !== false)
}

/** The proxy as one App. */
export function pipeline(site: Site): App {
  return steps(site).reduceRight<App>((next, step) => step(next, site), proxyServer(site.cluster))
}
