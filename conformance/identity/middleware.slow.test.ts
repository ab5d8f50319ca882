// Python's keystonemiddleware, which every other OpenStack service puts before itself, believes what this identity service says.
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { type IdentityCloud, identityCloud, PASSWORD } from '#services/keystone/testing/cloud.ts'
import { lacks, python, talk } from './python.ts'

interface Through {
  status: number
  told: Record<string, string>
}

const skip = lacks('keystonemiddleware')

/** Options of a service's middleware. Without its cache: what the tests revoke must be refused at the next request. */
const options = (cloud: IdentityCloud, service_type = 'block-storage') => ({
  www_authenticate_uri: cloud.url,
  auth_url: cloud.url,
  auth_type: 'password',
  username: 'admin',
  password: PASSWORD,
  project_name: 'admin',
  user_domain_id: 'default',
  project_domain_id: 'default',
  token_cache_time: '-1',
  service_token_roles: ['service'],
  service_token_roles_required: true,
  service_type,
})

async function behind(t: TestContext, yaml = '') {
  const cloud = await identityCloud(t, yaml)
  const app = talk(t, 'middleware.py', { middleware: 'auth_token', options: options(cloud) })
  const through = (token: string, path = '/', headers = {}, method = 'GET') =>
    app.ask<Through>({ path, method, headers: { 'X-Auth-Token': token, ...headers } })
  return { cloud, through }
}

test('auth_token: who asks, with which roles where, and no more once revoked', { skip }, async t => {
  const { cloud, through } = await behind(t)
  const token = await cloud.admin()
  const { status, told } = await through(token)
  assert.equal(status, 200)
  assert.equal(told.HTTP_X_IDENTITY_STATUS, 'Confirmed')
  assert.equal(told.HTTP_X_USER_NAME, 'admin')
  assert.equal(told.HTTP_X_PROJECT_ID, cloud.adminProjectId)
  assert.deepEqual(told.HTTP_X_ROLES!.split(',').sort(), ['admin', 'manager', 'member', 'reader'])
  const catalog: { type: string }[] = JSON.parse(told.HTTP_X_SERVICE_CATALOG!)
  assert.deepEqual(catalog.map(service => service.type).sort(), ['block-storage', 'identity'])
  const system = await cloud.login('admin', PASSWORD, { system: { all: true } })
  assert.equal((await through(system)).told.HTTP_OPENSTACK_SYSTEM_SCOPE, 'all')
  assert.equal((await through('guessed')).status, 401)
  assert.equal((await through('gAAAAABnotatoken')).status, 401)
  await cloud.call('DELETE /auth/tokens', { token, headers: { 'x-subject-token': token } })
  assert.equal((await through(token)).status, 401)
})

test('auth_token: access rules of an application credential, for this service only', { skip }, async t => {
  const { cloud, through } = await behind(t)
  const token = await cloud.admin()
  const { user } = (await cloud.call('GET /auth/tokens', { token, headers: { 'x-subject-token': token } })).body.token
  const access_rules = [{ service: 'block-storage', method: 'GET', path: '/v3/*/volumes/{id}/**' }]
  const made = await cloud.call(`POST /users/${user.id}/application_credentials`, {
    token,
    body: { application_credential: { name: 'a', access_rules } },
  })
  const { id, secret } = made.body.application_credential
  const login = await cloud.call('POST /auth/tokens', {
    body: { auth: { identity: { methods: ['application_credential'], application_credential: { id, secret } } } },
  })
  const limited = login.headers.get('x-subject-token')!
  assert.equal((await through(limited, '/v3/p/volumes/1/metadata/a')).status, 200)
  assert.equal((await through(limited, '/v3/p/volumes/1/metadata/a', {}, 'POST')).status, 401)
  assert.equal((await through(limited, '/v3/p/types')).status, 401)
})

test('auth_token: a service finishes with a token that has ended meanwhile', { skip }, async t => {
  const { cloud, through } = await behind(t, 'token: { expiration: 4 }')
  const call = async (request: string) => cloud.call(request, { token: await cloud.admin() })
  const user = (await call('GET /users?name=admin')).body.users[0].id
  const role = (await call('GET /roles?name=service')).body.roles[0].id
  assert.equal((await call(`PUT /projects/${cloud.adminProjectId}/users/${user}/roles/${role}`)).status, 204)
  const token = await cloud.admin()
  // It holds for four seconds from the last whole one, whenever that was.
  await new Promise(resolve => setTimeout(resolve, 4010))
  assert.equal((await through(token)).status, 401)
  assert.equal((await through(token, '/', { 'X-Service-Token': await cloud.admin() })).status, 200)
})

test('oauth2_token: the bearer token of a client', { skip }, async t => {
  const cloud = await identityCloud(t)
  const app = talk(t, 'middleware.py', { middleware: 'oauth2_token', options: options(cloud) })
  const token = await cloud.admin()
  const { user } = (await cloud.call('GET /auth/tokens', { token, headers: { 'x-subject-token': token } })).body.token
  const made = await cloud.call(`POST /users/${user.id}/application_credentials`, {
    token,
    body: { application_credential: { name: 'client' } },
  })
  const { id, secret } = made.body.application_credential
  const answer = await fetch(`${cloud.url}/OS-OAUTH2/token`, {
    method: 'POST',
    headers: { authorization: `Basic ${Buffer.from(`${id}:${secret}`).toString('base64')}` },
    body: new URLSearchParams({ grant_type: 'client_credentials' }),
  })
  const { access_token } = (await answer.json()) as { access_token: string }
  const through = (bearer: string) => app.ask<Through>({ path: '/', headers: { Authorization: `Bearer ${bearer}` } })
  const { status, told } = await through(access_token)
  assert.deepEqual([status, told.HTTP_X_USER_NAME], [200, 'admin'])
  assert.equal((await through('guessed')).status, 401)
})

test('requests signed by keystoneclient with an EC2 secret, in all versions', {
  skip: skip || lacks('keystoneclient'),
}, async t => {
  const cloud = await identityCloud(t)
  const token = await cloud.admin()
  const { user } = (await cloud.call('GET /auth/tokens', { token, headers: { 'x-subject-token': token } })).body.token
  const made = await cloud.call(`POST /users/${user.id}/credentials/OS-EC2`, { token, body: { tenant_id: cloud.adminProjectId } })
  const { access, secret } = made.body.credential
  const ec2Credentials = await python<Record<string, object>>('clients.py', { do: 'sign', access, secret })
  assert.deepEqual(Object.keys(ec2Credentials), ['0', '1', '2', '4'])
  for (const [version, credentials] of Object.entries(ec2Credentials)) {
    const answer = await cloud.call('POST /ec2tokens', { token, body: { ec2Credentials: credentials } })
    assert.deepEqual([answer.status, answer.body.token?.user.name], [200, 'admin'], version)
    assert.ok(answer.headers.get('x-subject-token'))
    const forged = { ...credentials, verb: 'DELETE', host: 'elsewhere', params: { SignatureVersion: version, Action: 'Other' } }
    assert.equal((await cloud.call('POST /ec2tokens', { token, body: { ec2Credentials: forged } })).status, 401, version)
    const stranger = await cloud.call('POST /ec2tokens', { body: { ec2Credentials: credentials } })
    assert.equal(stranger.status, 401, 'only services may ask')
  }
})
