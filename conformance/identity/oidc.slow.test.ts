// Logins by a real OpenID provider: a browser that comes back with a code, and Python's own clients with what the provider gave them.
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { type IdentityCloud, identityCloud } from '#services/keystone/testing/cloud.ts'
import { browser } from './browser.ts'
import { openidProvider, passwordOf, RESOURCE } from './provider.ts'
import { lacks, python } from './python.ts'

const DASHBOARD = 'http://horizon.example/auth/websso/'

/** A cloud that trusts the provider; its groups are groups here, builders are members of the project `works`. */
async function federated(t: TestContext) {
  let home = ''
  const idp = await openidProvider(t, () => `${home}/auth/OS-FEDERATION/oidc/callback`)
  const provider = `{ identity_provider: acme, issuer: '${idp.issuer}', client_id: nubo, client_secret: secret, scope: 'openid email' }`
  const signed = `{ identity_provider: signed, issuer: '${idp.issuer}', client_id: nubo, client_secret: secret, audience: '${RESOURCE}' }`
  const cloud = await identityCloud(t, `federation: { trusted_dashboard: ['${DASHBOARD}'], openid: [${provider}, ${signed}] }`)
  home = cloud.url
  const token = await cloud.admin()
  const made = async (request: string, body: unknown) => {
    const answer = await cloud.call(request, { token, body })
    assert.ok(answer.status < 300, `${request}: ${answer.status} ${JSON.stringify(answer.body)}`)
    return answer.body
  }
  const { domain } = await made('POST /domains', { domain: { name: 'acme' } })
  const { group } = await made('POST /groups', { group: { name: 'builders', domain_id: domain.id } })
  const { project } = await made('POST /projects', { project: { name: 'works', domain_id: domain.id } })
  const { roles } = (await cloud.call('GET /roles?name=member', { token })).body
  await made(`PUT /projects/${project.id}/groups/${group.id}/roles/${roles[0].id}`, undefined)
  const rules = [
    {
      local: [{ user: { name: '{0}', email: '{1}' } }, { groups: '{2}', domain: { id: domain.id } }],
      remote: [{ type: 'HTTP_OIDC_SUB' }, { type: 'HTTP_OIDC_EMAIL' }, { type: 'HTTP_OIDC_GROUPS' }],
    },
    {
      local: [{ user: { name: 'program {0}' } }, { group: { id: group.id } }],
      remote: [{ type: 'HTTP_OIDC_CLIENT_ID' }, { type: 'HTTP_OIDC_SCOPE', any_one_of: ['api'] }],
    },
  ]
  await made('PUT /OS-FEDERATION/mappings/acme', { mapping: { rules } })
  for (const id of ['acme', 'signed']) {
    const remote_ids = id === 'acme' ? [idp.issuer] : []
    await made(`PUT /OS-FEDERATION/identity_providers/${id}`, {
      identity_provider: { enabled: true, domain_id: domain.id, remote_ids },
    })
    const protocol = { mapping_id: 'acme', ...(id === 'acme' && { remote_id_attribute: 'HTTP_OIDC_ISS' }) }
    await made(`PUT /OS-FEDERATION/identity_providers/${id}/protocols/openid`, { protocol })
  }
  return { cloud, issuer: idp.issuer }
}

/** A token of the provider. */
async function grant(issuer: string, client: string, parameters: Record<string, string>): Promise<string> {
  const authorization = `Basic ${Buffer.from(`${client}:secret`).toString('base64')}`
  const body = new URLSearchParams(parameters)
  const answer = await fetch(`${issuer}/token`, { method: 'POST', headers: { authorization }, body })
  const token = (await answer.json()) as { access_token?: string }
  assert.ok(token.access_token, JSON.stringify(token))
  return token.access_token
}

const bearer = (cloud: IdentityCloud, idp: string, token: string) =>
  cloud.call(`GET /OS-FEDERATION/identity_providers/${idp}/protocols/openid/auth`, {
    headers: { authorization: `Bearer ${token}` },
  })

test('a browser logs in at the provider and its dashboard gets a token', async t => {
  const { cloud } = await federated(t)
  const jar = browser()
  const login = await jar.open(`${cloud.url}/auth/OS-FEDERATION/websso/openid?origin=${encodeURIComponent(DASHBOARD)}`)
  assert.equal(login.status, 404, 'two providers have the protocol: the one must be named')
  const path = '/auth/OS-FEDERATION/identity_providers/acme/protocols/openid/websso'
  const form = await jar.open(`${cloud.url}${path}?origin=${encodeURIComponent(DASHBOARD)}`)
  assert.match(form.html, /name="login"/)
  const consent = await jar.submit(form, { login: 'ann', password: passwordOf('ann') })
  assert.match(consent.html, /Authorize/)
  const page = await jar.submit(consent, {})
  assert.equal(page.status, 200, page.html)
  assert.match(page.html, new RegExp(`action="${DASHBOARD}"`))
  const token = /id="token" value="([^"]+)"/.exec(page.html)![1]!
  const { projects } = (await cloud.call('GET /auth/projects', { token })).body
  assert.deepEqual(
    projects.map((one: { name: string }) => one.name),
    ['works'],
  )
  const scoped = await cloud.call('POST /auth/tokens', {
    body: { auth: { identity: { methods: ['token'], token: { id: token } }, scope: { project: { id: projects[0].id } } } },
  })
  assert.equal(scoped.status, 201, JSON.stringify(scoped.body))
  const { user, roles } = scoped.body.token
  assert.equal(user.name, 'ann')
  assert.deepEqual(
    roles.map((one: { name: string }) => one.name),
    ['member', 'reader'],
  )
  assert.equal((await jar.open(page.url)).status, 401, 'the same answer of the provider again')
})

test('opaque and signed access tokens hold; those of others, changed and revoked ones do not', async t => {
  const { cloud, issuer } = await federated(t)
  const opaque = await grant(issuer, 'nubo', { grant_type: 'client_credentials', scope: 'api' })
  const login = await bearer(cloud, 'acme', opaque)
  assert.equal(login.body.token?.user.name, 'program nubo', JSON.stringify(login.body))
  const signed = await grant(issuer, 'nubo', { grant_type: 'client_credentials', resource: RESOURCE, scope: 'api' })
  assert.equal((await bearer(cloud, 'signed', signed)).status, 201)
  assert.equal((await bearer(cloud, 'signed', `${signed.slice(0, -8)}AAAAAAAA`)).status, 401)
  const foreign = await grant(issuer, 'other', { grant_type: 'client_credentials', scope: 'api' })
  assert.equal((await bearer(cloud, 'acme', foreign)).status, 401, 'given to another program')
  const authorization = `Basic ${Buffer.from('nubo:secret').toString('base64')}`
  const body = new URLSearchParams({ token: opaque })
  await fetch(`${issuer}/token/revocation`, { method: 'POST', headers: { authorization }, body })
  assert.equal((await bearer(cloud, 'acme', opaque)).status, 401, 'revoked at the provider')
})

test("keystoneauth's plugins for OpenID Connect", { skip: lacks('keystoneauth1') }, async t => {
  const { cloud, issuer } = await federated(t)
  const options = {
    auth_url: cloud.url,
    identity_provider: 'acme',
    protocol: 'openid',
    client_id: 'nubo',
    client_secret: 'secret',
    discovery_endpoint: `${issuer}/.well-known/openid-configuration`,
    project_name: 'works',
    project_domain_name: 'acme',
  }
  const login = (plugin: string, more: Record<string, string>) =>
    python<{ user?: string; roles?: string[]; status?: number }>('clients.py', {
      do: 'login',
      plugin,
      options: { ...options, ...more },
    })
  const byPassword = await login('v3oidcpassword', { username: 'ann', password: passwordOf('ann'), scope: 'openid email' })
  assert.deepEqual([byPassword.user, byPassword.roles], ['ann', ['member', 'reader']])
  const byProgram = await login('v3oidcclientcredentials', { scope: 'api' })
  assert.deepEqual([byProgram.user, byProgram.roles], ['program nubo', ['member', 'reader']])
  const access_token = await grant(issuer, 'nubo', { grant_type: 'client_credentials', scope: 'api' })
  const { client_id: _id, client_secret: _secret, discovery_endpoint: _endpoint, ...plain } = options
  const byToken = await python<{ user: string }>('clients.py', {
    do: 'login',
    plugin: 'v3oidcaccesstoken',
    options: { ...plain, access_token },
  })
  assert.equal(byToken.user, 'program nubo')
  const wrong = await python<{ status: number }>('clients.py', {
    do: 'login',
    plugin: 'v3oidcaccesstoken',
    options: { ...plain, access_token: 'guessed' },
  })
  assert.equal(wrong.status, 401)
})
