/** The proxy: every step between the client and the servers, in the order in which a request meets them. Read it from top to bottom. */
import { keystoneauth } from '../auth/keystone.ts'
import { accountAcl, tempauth } from '../auth/tempauth.ts'
import type { App } from '../http/message.ts'
import { copy } from './features/copy.ts'
import { discovery } from './features/discovery.ts'
import { edge } from './features/edge.ts'
import { listings } from './features/listings.ts'
import { proxyServer } from './server.ts'
import type { Site, Step } from './site.ts'

/** The steps of a site, outermost first. Those that its settings leave out are not there at all. */
export function steps(site: Site): Step[] {
  const { settings } = site
  const all: (Step | false)[] = [
    edge, // transaction ids, the gate for hidden headers, access log, whatever was thrown
    discovery, // /healthcheck /info /crossdomain.xml /v1/endpoints
    listings, // text, JSON, XML
    settings.tempauth !== null && tempauth,
    settings.keystone !== null && keystoneauth,
    accountAcl,
    copy, // COPY and X-Copy-From
  ]
  return all.filter(step => step !== false)
}

/** The proxy as one App. */
export function pipeline(site: Site): App {
  return steps(site).reduceRight<App>((next, step) => step(next, site), proxyServer(site.cluster))
}
