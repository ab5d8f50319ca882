/** Nova's table of contents: all that the compute service has. */
import { badRequest } from '#kit/fault.ts'
import type { Call, Route } from '#kit/http/route.ts'
import type { Saga } from '#kit/saga/index.ts'
import type { Service } from '#kit/service.ts'
import { instanceActionRoutes } from './actions/list.routes.ts'
import { operate } from './actions/operation.ts'
import { actionRoutes } from './actions/routes.ts'
import { novaAudit } from './audit.ts'
import { consoleUpgrade } from './consoles/proxy.ts'
import { consoleRoutes } from './consoles/routes.ts'
import { discoveryRoutes } from './discovery.routes.ts'
import { flavorAccessRoutes } from './flavors/access.routes.ts'
import { flavorRoutes } from './flavors/routes.ts'
import { flavorSpecRoutes } from './flavors/specs.routes.ts'
import { aggregateAndZoneRoutes } from './hosts/aggregates.routes.ts'
import { hypervisorRoutes } from './hosts/hypervisors.routes.ts'
import { serviceRoutes } from './hosts/services.routes.ts'
import { controllerServices } from './hosts/store.ts'
import { hostVerbs } from './hosts/verbs.ts'
import { keypairRoutes } from './keypairs/routes.ts'
import { metadataServed } from './metadata/serve.ts'
import { migrations } from './migrations/index.ts'
import { policies } from './policy.ts'
import { quotaRoutes } from './quotas/routes.ts'
import { createServer } from './servers/create.saga.ts'
import { deleteServer } from './servers/delete.saga.ts'
import { serverGroupRoutes } from './servers/groups.routes.ts'
import { serverListRoutes } from './servers/list.routes.ts'
import { serverPartRoutes } from './servers/parts.routes.ts'
import { serverRoutes } from './servers/routes.ts'
import { novaSettings } from './settings.ts'
import { microversions } from './versions.ts'
import { wire } from './wire.ts'

const routes: Route[] = [
  ...discoveryRoutes,
  ...flavorRoutes,
  ...flavorAccessRoutes,
  ...flavorSpecRoutes,
  ...keypairRoutes,
  ...serverListRoutes,
  ...serverRoutes,
  ...serverPartRoutes,
  ...serverGroupRoutes,
  ...actionRoutes,
  ...instanceActionRoutes,
  ...consoleRoutes,
  ...serviceRoutes,
  ...aggregateAndZoneRoutes,
  ...hypervisorRoutes,
  ...quotaRoutes,
]

/** A URL may name a project: it must be the token's. */
function inOwnProject(route: Route): Route {
  const { target } = route
  return {
    ...route,
    async target(call: Call) {
      const { project_id } = call.params
      if (project_id !== undefined && project_id !== call.ctx.projectId) {
        throw badRequest(
          `Malformed request URL: URL's project_id '${project_id}' doesn't match Context's project_id '${call.ctx.projectId}'`,
        )
      }
      return target?.(call)
    },
  }
}

export const nova: Service = {
  name: 'nova',
  type: 'compute',
  prefix: '/compute',
  mounts: ['/v2.1', '/v2.1/:project_id', '/v2', '/v2/:project_id'],
  wire,
  microversions,
  routes: routes.map(inOwnProject),
  policies,
  migrations,
  settings: novaSettings,
  audit: novaAudit,
  sagas: [createServer, deleteServer, operate] as unknown as Saga<never>[],
  hostVerbs: [...hostVerbs, metadataServed],
  upgrade: consoleUpgrade,
  async start(env) {
    await controllerServices(env)
    return undefined
  },
}
