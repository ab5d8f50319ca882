import { hasShape, type Tried } from '#kit/http/tried.ts'
import type { Env } from '#kit/service.ts'
import { tokenOpen, tokenSeal } from './tokens/token.ts'

/** What a user owns, and one of each noun that is the administrator's. */
export const tried: Tried = {
  async make({ owner, admin, userId, projectId }) {
    const one = async (plural: string, name: string, body: Record<string, unknown>, ask = admin): Promise<string> =>
      (await ask(`POST /v3/${plural}`, { [name]: body }))[name].id
    const put = (path: string, body?: unknown) => admin(`PUT /v3/${path}`, body)
    const member = (await admin('GET /v3/roles?name=member')).roles[0].id
    const domain = await one('domains', 'domain', { name: 'tried' })
    const group = await one('groups', 'group', { name: 'tried' })
    const role = await one('roles', 'role', { name: 'tried' })
    await put(`groups/${group}/users/${userId}`)
    await put(`roles/${role}/implies/${member}`)
    await put(`projects/${projectId}/groups/${group}/roles/${member}`)
    await put(`projects/${projectId}/tags/one`)
    await put(`domains/${domain}/config`, { config: { identity: { driver: 'sql' } } })
    const region = await one('regions', 'region', { id: 'tried' })
    const service = await one('services', 'service', { type: 'tried', name: 'tried' })
    const endpoint = await one('endpoints', 'endpoint', { service_id: service, interface: 'public', url: 'http://tried' })
    const endpoints = await one('OS-EP-FILTER/endpoint_groups', 'endpoint_group', {
      name: 'tried',
      filters: { interface: 'public' },
    })
    const policy = await one('policies', 'policy', { type: 'application/json', blob: '{}' })
    const registered = { service_id: service, resource_name: 'things', default_limit: 5 }
    const [{ id: general }] = (await admin('POST /v3/registered_limits', { registered_limits: [registered] })).registered_limits
    const limit = { service_id: service, resource_name: 'things', resource_limit: 3, project_id: projectId }
    const [{ id: special }] = (await admin('POST /v3/limits', { limits: [limit] })).limits
    await put('OS-FEDERATION/identity_providers/tried', { identity_provider: { enabled: true } })
    await put('OS-FEDERATION/mappings/tried', {
      mapping: { rules: [{ local: [{ user: { name: '{0}' } }], remote: [{ type: 'UserName' }] }] },
    })
    await put('OS-FEDERATION/identity_providers/tried/protocols/saml2', { protocol: { mapping_id: 'tried' } })
    await put('OS-FEDERATION/service_providers/tried', {
      service_provider: { auth_url: 'http://tried', sp_url: 'http://tried', enabled: true },
    })
    const consumer = await one('OS-OAUTH1/consumers', 'consumer', { description: 'tried' })
    const credential = await one('credentials', 'credential', { type: 'cert', blob: 'x', user_id: userId }, owner)
    const ec2 = (await owner(`POST /v3/users/${userId}/credentials/OS-EC2`, { tenant_id: projectId })).credential.access
    const application = {
      name: 'tried',
      access_rules: [{ path: '/v2.1/servers', method: 'GET', service: 'compute' }],
    }
    const credentials = `users/${userId}/application_credentials`
    const made = (await owner(`POST /v3/${credentials}`, { application_credential: application })).application_credential
    const trust = await one(
      'OS-TRUST/trusts',
      'trust',
      {
        trustor_user_id: userId,
        trustee_user_id: userId,
        project_id: projectId,
        impersonation: true,
        roles: [{ name: 'member' }],
      },
      owner,
    )
    return {
      '/users/:': userId,
      '/projects/:': projectId,
      '/domains/:': domain,
      '/groups/:': group,
      '/roles/:': role,
      '/regions/:': region,
      '/services/:': service,
      '/endpoints/:': endpoint,
      '/policies/:': policy,
      '/registered_limits/:': general,
      '/limits/:': special,
      '/credentials/:': credential,
      '/projects/:/tags/:': 'one',
      '/roles/:/implies/:': member,
      '/groups/:/users/:': userId,
      '/users/:/credentials/OS-EC2/:': ec2,
      '/users/:/application_credentials/:': made.id,
      '/users/:/access_rules/:': made.access_rules[0].id,
      '/users/:/OS-OAUTH1/access_tokens/:': 'none',
      '/users/:/OS-OAUTH1/access_tokens/:/roles/:': role,
      '/domains/:/config/:': 'identity',
      '/domains/:/config/:/:': 'driver',
      '/domains/:/config/security_compliance/:': 'password_regex',
      '/domains/config/:': 'identity',
      '/domains/config/:/:': 'driver',
      '/OS-OAUTH1/consumers/:': consumer,
      '/OS-OAUTH1/authorize/:': 'none',
      '/OS-TRUST/trusts/:': trust,
      '/OS-TRUST/trusts/:/roles/:': member,
      '/OS-EP-FILTER/endpoint_groups/:': endpoints,
      '/OS-FEDERATION/identity_providers/:': 'tried',
      '/OS-FEDERATION/identity_providers/:/protocols/:': 'saml2',
      '/OS-FEDERATION/mappings/:': 'tried',
      '/OS-FEDERATION/service_providers/:': 'tried',
      '/auth/OS-FEDERATION/identity_providers/:': 'tried',
      '/auth/OS-FEDERATION/identity_providers/:/protocols/:': 'saml2',
      '/auth/OS-FEDERATION/websso/:': 'saml2',
      '/auth/OS-FEDERATION/saml2/ecp/:': 'tried',
      '/auth/OS-FEDERATION/saml2/ecp/:/:': 'saml2',
      ...grants(userId, group, role, projectId, domain),
      ...associations(projectId, endpoint, endpoints, service, region),
    }
  },
  common: [
    '/regions/:',
    '/services/:',
    '/endpoints/:',
    '/registered_limits/:',
    '/roles/:/implies/:',
    '/OS-TRUST/trusts/:/roles/:',
    ...Object.keys(associations('', '', '', '', '')).filter(key => !/projects[/]:$/.test(key)),
  ],
  bodies: ids => ({
    'POST /users/:user_id/credentials/OS-EC2': { tenant_id: ids['/projects/:'] },
  }),
  borrowing: (ids, foreignProjectId) => [
    [`GET /v3/role_assignments?user.id=${ids['/users/:']}`],
    ['POST /v3/credentials', { credential: { type: 'cert', blob: 'x', user_id: ids['/users/:'] } }],
    [
      'POST /v3/OS-TRUST/trusts',
      {
        trust: {
          trustor_user_id: ids['/users/:'],
          trustee_user_id: ids['/users/:'],
          project_id: foreignProjectId,
          impersonation: true,
          roles: [{ name: 'member' }],
        },
      },
    ],
  ],
  // Where tokens of OAuth 2.0 are asked for, refusals have the shape of its RFC 6749.
  refusal: body =>
    hasShape((body as { error?: unknown } | null)?.error, { code: 'number', message: 'string', title: 'string' }) ||
    hasShape(body, { error: 'string', error_description: 'string' }),
}

/** Ids in the paths of grants: an actor and a role on a target. */
function grants(user: string, group: string, role: string, project: string, domain: string): Record<string, string> {
  const ids: Record<string, string> = {}
  for (const inherit of ['', '/OS-INHERIT']) {
    for (const [target, id] of Object.entries({ projects: project, domains: domain })) {
      ids[`${inherit}/${target}/:`] = id
      for (const [actor, who] of Object.entries({ users: user, groups: group })) {
        ids[`${inherit}/${target}/:/${actor}/:`] = who
        ids[`${inherit}/${target}/:/${actor}/:/roles/:`] = role
      }
    }
  }
  for (const [actor, who] of Object.entries({ users: user, groups: group })) {
    ids[`/system/${actor}/:`] = who
    ids[`/system/${actor}/:/roles/:`] = role
  }
  return ids
}

/** Ids in the paths that tie endpoints to projects and policies. */
function associations(project: string, endpoint: string, group: string, service: string, region: string): Record<string, string> {
  return {
    '/OS-EP-FILTER/projects/:': project,
    '/OS-EP-FILTER/projects/:/endpoints/:': endpoint,
    '/OS-EP-FILTER/endpoints/:': endpoint,
    '/OS-EP-FILTER/endpoint_groups/:': group,
    '/OS-EP-FILTER/endpoint_groups/:/projects/:': project,
    '/policies/:/OS-ENDPOINT-POLICY/endpoints/:': endpoint,
    '/policies/:/OS-ENDPOINT-POLICY/services/:': service,
    '/policies/:/OS-ENDPOINT-POLICY/services/:/regions/:': region,
  }
}

/** The same token as one that expired a second ago. */
export function expiredToken(env: Env, token: string): string {
  const now = Math.floor(Date.now() / 1000)
  return tokenSeal(env, { ...tokenOpen(env, token)!, issued: now - 3600, expires: now - 1 })
}
