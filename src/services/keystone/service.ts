import type { Route } from '#kit/http/route.ts'
import type { Service } from '#kit/service.ts'
import { appCredRoutes } from './app_creds/app_creds.ts'
import { grantRoutes } from './assignments/grants.ts'
import { assignmentRoutes } from './assignments/list.route.ts'
import { keystoneAudit } from './audit.ts'
import { scopeRoutes } from './auth/scopes.routes.ts'
import { credentialRoutes } from './credentials/credentials.ts'
import { signedRoutes } from './credentials/signed.routes.ts'
import { domainConfigRoutes } from './domain_config/domain_config.ts'
import { domainRoutes } from './domains/domains.ts'
import { endpointFilterRoutes } from './endpoint_filter/endpoint_filter.ts'
import { endpointRoutes } from './endpoints/endpoints.ts'
import { federatedAuthRoutes } from './federation/auth.routes.ts'
import { federationRoutes } from './federation/providers.ts'
import { samlIdpRoutes } from './federation/saml_idp.ts'
import { samlSpRoutes } from './federation/saml_sp.ts'
import { groupRoutes } from './groups/groups.ts'
import { healthRoute } from './health.route.ts'
import { identityOf } from './identity.ts'
import { legacyRoutes } from './legacy.routes.ts'
import { limitRoutes } from './limits/limits.ts'
import { base } from './migrations/0001_base.ts'
import { usedAssertions } from './migrations/0002_used_assertions.ts'
import { limitsOutlive } from './migrations/0003_limits_outlive.ts'
import { consumerRoutes } from './oauth1/consumers.ts'
import { oauth1Routes } from './oauth1/oauth1.ts'
import { oauth2Route } from './oauth2/token.route.ts'
import { policyRoutes } from './policies/policies.ts'
import { policies } from './policy.ts'
import { projectRoutes } from './projects/projects.ts'
import { tagRoutes } from './projects/tags.ts'
import { regionRoutes } from './regions/regions.ts'
import { impliedRoutes } from './roles/implied.ts'
import { roleRoutes } from './roles/roles.ts'
import { serviceRoutes } from './services/services.ts'
import { keystoneSettings } from './settings.ts'
import { trustRoutes } from './trusts/trusts.ts'
import './tables.ts'
import { directories, sweep } from './tasks.ts'
import { tokenRoutes } from './tokens/tokens.routes.ts'
import { userRoutes } from './users/users.ts'
import { versionRoutes } from './versions.ts'
import { wire } from './wire.ts'

const routes: Route[] = [
  ...versionRoutes(() => routes),
  healthRoute,
  ...tokenRoutes,
  ...scopeRoutes,
  ...domainRoutes,
  ...projectRoutes,
  ...userRoutes,
  ...groupRoutes,
  ...roleRoutes,
  ...impliedRoutes,
  ...grantRoutes,
  ...assignmentRoutes,
  ...regionRoutes,
  ...serviceRoutes,
  ...endpointRoutes,
  ...samlIdpRoutes,
  ...samlSpRoutes,
  ...federatedAuthRoutes,
  ...legacyRoutes,
  ...signedRoutes,
  oauth2Route,
  ...oauth1Routes,
  ...federationRoutes,
  ...trustRoutes,
  ...consumerRoutes,
  ...domainConfigRoutes,
  ...endpointFilterRoutes,
  ...policyRoutes,
  ...limitRoutes,
  ...tagRoutes,
  ...credentialRoutes,
  ...appCredRoutes,
]

/** Identity: everything it has. */
export const keystone: Service = {
  name: 'keystone',
  type: 'identity',
  prefix: '/identity',
  mounts: ['/v3'],
  wire,
  routes,
  policies,
  settings: keystoneSettings,
  migrations: [base, usedAssertions, limitsOutlive],
  tasks: [sweep, directories],
  audit: keystoneAudit,
  start: env => identityOf(env).start(),
}
