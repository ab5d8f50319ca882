import type { Route } from '#kit/http/route.ts'
import type { Service } from '#kit/service.ts'
import { addressGroupRoutes, addressGroups } from './addressgroups/groups.ts'
import { agents, schedulerRoutes } from './agents/agents.ts'
import { readRoutes } from './api/read.ts'
import { routesOf } from './api/routes.ts'
import { tagRoutes } from './api/tags.ts'
import { writeRoutes } from './api/write.ts'
import { neutronAudit } from './audit.ts'
import { conntrackHelpers } from './conntrack/helpers.ts'
import { extensionRoutes } from './extensions.ts'
import { flavorRoutes, flavors, profiles } from './flavors/flavors.ts'
import { floatingips } from './floatingips/floatingips.ts'
import { poolRoutes } from './floatingips/pools.ts'
import { pokesStart } from './hosts/changed.ts'
import { schedule } from './hosts/schedule.ts'
import { hostVerbs } from './hosts/verbs.ts'
import { meteringLabels, meteringRules } from './metering/labels.ts'
import { base } from './migrations/0001_base.ts'
import { trunks as trunkTables } from './migrations/0002_trunks.ts'
import { portIndexes } from './migrations/0003_port_indexes.ts'
import { topologies } from './migrations/0004_topologies.ts'
import { metering } from './migrations/0005_metering.ts'
import { portPairs } from './migrations/0006_port_pairs.ts'
import { conntrackHelpers as conntrackTable } from './migrations/0007_conntrack_helpers.ts'
import { availabilityRoutes } from './networks/availability.ts'
import { networks } from './networks/networks.ts'
import { policies } from './policy.ts'
import { forwardings } from './portforwardings/forwardings.ts'
import { ports } from './ports/ports.ts'
import { policies as qosPolicies } from './qos/policies.ts'
import { qosRoutes } from './qos/rules.ts'
import { quotaRoutes } from './quotas/routes.ts'
import { rbacPolicies } from './rbac/policies.ts'
import { interfaceRoutes } from './routers/interfaces.ts'
import { extraRoutes, routers } from './routers/routers.ts'
import { scopes } from './scopes/scopes.ts'
import { groupRoutes } from './securitygroups/groups.ts'
import { rules, templates } from './securitygroups/rules.ts'
import { segments } from './segments/segments.ts'
import { neutronSettings } from './settings.ts'
import { prefixRoutes, subnetpools } from './subnetpools/subnetpools.ts'
import { subnets } from './subnets/subnets.ts'
import './tables.ts'
import { projectGone } from './tenants.ts'
import { topologyRoutes } from './topologies/topologies.ts'
import { trunkRoutes, trunks } from './trunks/trunks.ts'
import { versionRoutes } from './versions.ts'
import { wire } from './wire.ts'

const nouns = [
  networks,
  subnets,
  subnetpools,
  scopes,
  addressGroups,
  ports,
  routers,
  floatingips,
  forwardings,
  conntrackHelpers,
  rules,
  templates,
  rbacPolicies,
  agents,
  segments,
  flavors,
  profiles,
  trunks,
  meteringLabels,
  meteringRules,
]

const routes: Route[] = [
  ...versionRoutes(() => nouns.filter(noun => !noun.parent).map(noun => noun.plural)),
  ...extensionRoutes,
  ...nouns.flatMap(routesOf),
  ...groupRoutes,
  ...interfaceRoutes,
  ...extraRoutes,
  ...quotaRoutes,
  ...prefixRoutes,
  ...addressGroupRoutes,
  ...schedulerRoutes,
  ...availabilityRoutes,
  ...flavorRoutes,
  ...poolRoutes,
  ...topologyRoutes,
  ...trunkRoutes,
  ...readRoutes(qosPolicies),
  ...writeRoutes(qosPolicies),
  ...tagRoutes(qosPolicies, '/policies'),
  ...qosRoutes,
]

/** Networking: everything it has. */
export const neutron: Service = {
  name: 'neutron',
  type: 'network',
  prefix: '/networking',
  mounts: ['/v2.0'],
  wire,
  routes,
  policies,
  settings: neutronSettings,
  audit: neutronAudit,
  migrations: [base, trunkTables, portIndexes, topologies, metering, portPairs, conntrackTable],
  tasks: [schedule],
  on: [projectGone],
  hostVerbs,
  start: env => pokesStart(env),
}
