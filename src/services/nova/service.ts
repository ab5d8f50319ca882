/** Nova's table of contents: all that the compute service has. */
import { badRequest } from '#kit/fault.ts'
import type { Call, Route } from '#kit/http/route.ts'
import type { Saga } from '#kit/saga/index.ts'
import type { Service } from '#kit/service.ts'
import { instanceActionRoutes } from './actions/list.routes.ts'
import { operate } from './actions/operation.ts'
import { rebuildRoutes } from './actions/rebuild.routes.ts'
import { actionRoutes } from './actions/routes.ts'
import { snapshotRoutes } from './actions/snapshot.routes.ts'
import { snapshotServer } from './actions/snapshot.saga.ts'
import { novaAudit } from './audit.ts'
import { consoleUpgrade } from './consoles/proxy.ts'
import { consoleRoutes } from './consoles/routes.ts'
import { discoveryRoutes } from './discovery.routes.ts'
import { eventRoutes } from './events.routes.ts'
import { flavorAccessRoutes } from './flavors/access.routes.ts'
import { flavorRoutes } from './flavors/routes.ts'
import { flavorSpecRoutes } from './flavors/specs.routes.ts'
import { aggregateAndZoneRoutes } from './hosts/aggregates.routes.ts'
import { hostRoutes } from './hosts/hosts.routes.ts'
import { hypervisorRoutes } from './hosts/hypervisors.routes.ts'
import { serviceRoutes } from './hosts/services.routes.ts'
import { controllerServices } from './hosts/store.ts'
import { hostVerbs } from './hosts/verbs.ts'
import { interfaceRoutes } from './interfaces/routes.ts'
import { keypairRoutes } from './keypairs/routes.ts'
import { metadataServed } from './metadata/serve.ts'
import { migrations } from './migrations/index.ts'
import { moveRoutes } from './moves/actions.routes.ts'
import { confirmMove, moveServer, revertMove } from './moves/cold.saga.ts'
import { evacuateServer } from './moves/evacuate.saga.ts'
import { migrationRoutes } from './moves/list.routes.ts'
import { liveMigrate } from './moves/live.saga.ts'
import { shelveServer, unshelveServer } from './moves/shelve.saga.ts'
import { policies } from './policy.ts'
import { goneRoutes } from './proxies/gone.routes.ts'
import { groupProxyRoutes } from './proxies/groups.routes.ts'
import { imageProxyRoutes } from './proxies/images.routes.ts'
import { networkProxyRoutes } from './proxies/networks.routes.ts'
import { volumeRoutes } from './proxies/volumes.routes.ts'
import { quotaRoutes } from './quotas/routes.ts'
import { createServer } from './servers/create.saga.ts'
import { deleteServer } from './servers/delete.saga.ts'
import { serverGroupRoutes } from './servers/groups.routes.ts'
import { serverListRoutes } from './servers/list.routes.ts'
import { serverPartRoutes } from './servers/parts.routes.ts'
import { serverRoutes } from './servers/routes.ts'
import { novaSettings } from './settings.ts'
import { due } from './tasks.ts'
import { usageRoutes } from './usage.routes.ts'
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
  ...rebuildRoutes,
  ...snapshotRoutes,
  ...moveRoutes,
  ...migrationRoutes,
  ...instanceActionRoutes,
  ...consoleRoutes,
  ...serviceRoutes,
  ...aggregateAndZoneRoutes,
  ...hypervisorRoutes,
  ...quotaRoutes,
  ...usageRoutes,
  ...interfaceRoutes,
  ...volumeRoutes,
  ...eventRoutes,
  ...hostRoutes,
  ...networkProxyRoutes,
  ...groupProxyRoutes,
  ...imageProxyRoutes,
  ...goneRoutes,
]

const sagas = [
  createServer,
  deleteServer,
  operate,
  snapshotServer,
  moveServer,
  confirmMove,
  revertMove,
  liveMigrate,
  evacuateServer,
  shelveServer,
  unshelveServer,
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
  sagas: sagas as unknown as Saga<never>[],
  tasks: [due],
  hostVerbs: [...hostVerbs, metadataServed],
  upgrade: consoleUpgrade,
  async start(env) {
    await controllerServices(env)
    return undefined
  },
}
