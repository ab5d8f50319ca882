import type { Route } from '#kit/http/route.ts'
import type { Service } from '#kit/service.ts'
import { routesOf } from './api/routes.ts'
import { neutronAudit } from './audit.ts'
import { extensionRoutes } from './extensions.ts'
import { floatingips } from './floatingips/floatingips.ts'
import { pokesStart } from './hosts/changed.ts'
import { schedule } from './hosts/schedule.ts'
import { hostVerbs } from './hosts/verbs.ts'
import { base } from './migrations/0001_base.ts'
import { networks } from './networks/networks.ts'
import { policies } from './policy.ts'
import { ports } from './ports/ports.ts'
import { quotaRoutes } from './quotas/routes.ts'
import { interfaceRoutes } from './routers/interfaces.ts'
import { extraRoutes, routers } from './routers/routers.ts'
import { groupRoutes } from './securitygroups/groups.ts'
import { rules, templates } from './securitygroups/rules.ts'
import { neutronSettings } from './settings.ts'
import { subnets } from './subnets/subnets.ts'
import './tables.ts'
import { projectGone } from './tenants.ts'
import { versionRoutes } from './versions.ts'
import { wire } from './wire.ts'

const nouns = [networks, subnets, ports, routers, floatingips, rules, templates]

const routes: Route[] = [
  ...versionRoutes(() => nouns.filter(noun => !noun.parent).map(noun => noun.plural)),
  ...extensionRoutes,
  ...nouns.flatMap(routesOf),
  ...groupRoutes,
  ...interfaceRoutes,
  ...extraRoutes,
  ...quotaRoutes,
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
  migrations: [base],
  tasks: [schedule],
  on: [projectGone],
  hostVerbs,
  start: env => pokesStart(env),
}
