// Operations that few clients use: each once, for what it answers.
import assert from 'node:assert/strict'
import { createHmac } from 'node:crypto'
import { test } from 'node:test'
import { signerOf } from './credentials/signer.ts'
import { type Answer, identityCloud, PASSWORD } from './testing/cloud.ts'

const first = (list: { id: string }[]): string => list[0]!.id

test('checks by GET of grants, memberships and associations', async t => {
  const cloud = await identityCloud(t)
  const { call } = cloud
  const token = await cloud.admin()
  const is = async (request: string, status: number) => assert.equal((await call(request, { token })).status, status, request)
  const { group } = (await call('POST /groups', { token, body: { group: { name: 'g' } } })).body
  const user = first((await call('GET /users?name=demo', { token })).body.users)
  const role = first((await call('GET /roles?name=member', { token })).body.roles)
  await is(`GET /groups/${group.id}/users/${user}`, 404)
  await is(`PUT /groups/${group.id}/users/${user}`, 204)
  await is(`GET /groups/${group.id}/users/${user}`, 204)
  for (const place of ['/domains/default', `/projects/${cloud.adminProjectId}`, '/system']) {
    for (const actor of [`/users/${user}`, `/groups/${group.id}`]) {
      const grant = `${place}${actor}/roles/${role}`
      const paths = place === '/system' ? [grant] : [grant, `/OS-INHERIT${grant}/inherited_to_projects`]
      for (const path of paths) {
        await is(`GET ${path}`, 404)
        await is(`PUT ${path}`, 204)
        await is(`GET ${path}`, 204)
        await is(`HEAD ${path}`, 204)
        await is(`DELETE ${path}`, 204)
        await is(`GET ${path}`, 404)
      }
    }
  }
  const endpoint = first((await call('GET /endpoints', { token })).body.endpoints)
  const of = `/OS-EP-FILTER/projects/${cloud.adminProjectId}/endpoints`
  await is(`GET ${of}/${endpoint}`, 404)
  await is(`PUT ${of}/${endpoint}`, 204)
  await is(`GET ${of}/${endpoint}`, 204)
  assert.deepEqual(
    (await call(`GET ${of}`, { token })).body.endpoints.map((one: { id: string }) => one.id),
    [endpoint],
  )
  const { projects } = (await call(`GET /OS-EP-FILTER/endpoints/${endpoint}/projects`, { token })).body
  assert.equal(first(projects), cloud.adminProjectId)
  await is(`DELETE ${of}/${endpoint}`, 204)
})

test('an endpoint without a region says so, itself and in the catalog', async t => {
  const { call, admin } = await identityCloud(t)
  const token = await admin()
  const { service } = (await call('POST /services', { token, body: { service: { type: 'far', name: 'far' } } })).body
  const endpoint = { service_id: service.id, interface: 'public', url: 'http://far' }
  const made = (await call('POST /endpoints', { token, body: { endpoint } })).body.endpoint
  assert.deepEqual([made.region_id, made.region], [null, null])
  const shown = (await call(`GET /endpoints/${made.id}`, { token })).body.endpoint
  assert.deepEqual([shown.region_id, shown.region], [null, null])
  const { catalog } = (await call('GET /auth/catalog', { token })).body
  const [listed] = catalog.find((one: { type: string }) => one.type === 'far').endpoints
  assert.deepEqual([listed.region_id, listed.region], [null, null])
})

test('what a token reaches, and what was revoked', async t => {
  const cloud = await identityCloud(t)
  const { call } = cloud
  const token = await cloud.admin()
  const gone = await cloud.admin()
  const audit = (await call('GET /auth/tokens', { token, headers: { 'x-subject-token': gone } })).body.token.audit_ids[0]
  assert.equal((await call('DELETE /auth/tokens', { token, headers: { 'x-subject-token': gone } })).status, 204)
  const { events } = (await call('GET /OS-REVOKE/events', { token })).body
  assert.ok(events.some((event: { audit_id?: string }) => event.audit_id === audit))
  // A user who has revoked a token of theirs finds it gone, although they may not ask of others' tokens.
  const mine = await cloud.login('demo', PASSWORD)
  const other = await cloud.login('demo', PASSWORD)
  assert.equal((await call('DELETE /auth/tokens', { token: mine, headers: { 'x-subject-token': other } })).status, 204)
  assert.equal((await call('GET /auth/tokens', { token: mine, headers: { 'x-subject-token': other } })).status, 404)
  assert.equal((await call('GET /auth/tokens', { token: mine, headers: { 'x-subject-token': token } })).status, 403)
  assert.deepEqual((await call('GET /auth/system', { token })).body.system, [{ all: true }])
  for (const [path, of] of [
    ['/OS-FEDERATION/projects', 'projects'],
    ['/OS-FEDERATION/domains', 'domains'],
    ['/auth/domains', 'domains'],
  ] as const)
    assert.ok(Array.isArray((await call(`GET ${path}`, { token })).body[of]), path)
  for (const path of ['/OS-SIMPLE-CERT/ca', '/OS-SIMPLE-CERT/certificates', '/auth/tokens/OS-PKI/revoked'])
    assert.equal((await call(`GET ${path}`, { token })).status, 410, path)
})

test('S3 requests and OAuth 2.0 clients', async t => {
  const cloud = await identityCloud(t)
  const { call } = cloud
  const token = await cloud.admin()
  const me = (await call('GET /auth/tokens', { token, headers: { 'x-subject-token': token } })).body.token.user.id
  const made = await call(`POST /users/${me}/credentials/OS-EC2`, { token, body: { tenant_id: cloud.adminProjectId } })
  const { access, secret } = made.body.credential
  const text = 'GET\n\n\nSun, 22 Nov 2026 20:00:00 GMT\n/bucket/object'
  const s3 = (key: string): Promise<Answer> => {
    const signature = createHmac('sha1', key).update(text).digest('base64')
    const credentials = { access, signature, token: Buffer.from(text).toString('base64url') }
    return call('POST /s3tokens', { token, body: { credentials } })
  }
  assert.equal((await s3(secret)).body.token.project.id, cloud.adminProjectId)
  assert.equal((await s3('guess')).status, 401)
  const signer = await signerOf(cloud.env, access)
  assert.deepEqual([signer?.secret, signer?.who.projectId, signer?.who.userId], [secret, cloud.adminProjectId, me])
  assert.deepEqual((await signerOf(cloud.env, access))?.who.roles, signer?.who.roles)
  assert.equal(await signerOf(cloud.env, 'guess'), null)
  await call(`DELETE /users/${me}/credentials/OS-EC2/${access}`, { token })
  assert.equal(await signerOf(cloud.env, access), null)
  const { application_credential: made2 } = (
    await call(`POST /users/${me}/application_credentials`, { token, body: { application_credential: { name: 'client' } } })
  ).body
  const grant = (body: Record<string, string>, id = made2.id, key = made2.secret) =>
    fetch(`${cloud.url}/OS-OAUTH2/token`, {
      method: 'POST',
      headers: { authorization: `Basic ${Buffer.from(`${id}:${key}`).toString('base64')}` },
      body: new URLSearchParams(body),
    })
  const given = await grant({ grant_type: 'client_credentials' })
  assert.equal(given.status, 200)
  const { access_token, token_type } = (await given.json()) as Record<string, string>
  assert.equal(token_type, 'Bearer')
  assert.equal((await call('GET /auth/projects', { token: access_token! })).status, 200)
  assert.equal((await grant({ grant_type: 'password' })).status, 400)
  assert.equal((await grant({})).status, 400)
  assert.equal((await grant({ grant_type: 'client_credentials' }, made2.id, 'guess')).status, 401)
  for (const method of ['GET', 'PUT', 'PATCH', 'DELETE']) {
    const refused = await fetch(`${cloud.url}/OS-OAUTH2/token`, { method })
    assert.equal(refused.status, 405, method)
    const { error, error_description } = (await refused.json()) as Record<string, string>
    assert.equal(error, 'other_error', method)
    assert.match(error_description!, /not allowed/)
  }
})
