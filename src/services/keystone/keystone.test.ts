import assert from 'node:assert/strict'
import { test } from 'node:test'
import { identityCloud, PASSWORD } from './testing/cloud.ts'

test('from a password to a scoped token, and what kills it', async t => {
  const cloud = await identityCloud(t)
  const { call } = cloud
  const admin = await cloud.admin()
  const shown = await call('GET /auth/tokens', { token: admin, headers: { 'x-subject-token': admin } })
  assert.equal(shown.status, 200)
  const { token } = shown.body
  assert.deepEqual(
    token.roles.map((role: { name: string }) => role.name),
    ['admin', 'manager', 'member', 'reader'],
  )
  assert.equal(token.project.name, 'admin')
  assert.equal(token.user.domain.name, 'Default')
  const volume = token.catalog.find((one: { type: string }) => one.type === 'block-storage')
  assert.match(volume.endpoints[0].url, new RegExp(`/volume/v3/${token.project.id}$`))

  const made = await call('POST /users', { token: admin, body: { user: { name: 'ann', password: 'pw1', email: 'a@x' } } })
  assert.equal(made.status, 201, JSON.stringify(made.body))
  assert.equal(made.body.user.email, 'a@x')
  assert.equal('password' in made.body.user, false)
  const id = made.body.user.id
  const role = (await call('GET /roles?name=member', { token: admin })).body.roles[0].id
  const grant = `/projects/${token.project.id}/users/${id}/roles/${role}`
  assert.equal((await call(`PUT ${grant}`, { token: admin })).status, 204)
  const scope = { project: { id: token.project.id } }
  const ann = await cloud.login('ann', 'pw1', scope)
  assert.equal((await call('GET /auth/catalog', { token: ann })).status, 200)
  assert.equal((await call('GET /users', { token: ann })).status, 403)
  assert.equal((await call(`GET /users/${id}`, { token: ann })).status, 200)

  assert.equal((await call(`DELETE ${grant}`, { token: admin })).status, 204)
  assert.equal((await call('GET /auth/catalog', { token: ann })).status, 401, 'a role that was taken away')
  await call(`PUT ${grant}`, { token: admin })
  const again = await cloud.login('ann', 'pw1', scope)
  assert.equal(
    (await call(`POST /users/${id}/password`, { body: { user: { original_password: 'pw1', password: 'pw2' } } })).status,
    204,
  )
  assert.equal((await call('GET /auth/catalog', { token: again })).status, 401, 'a changed password')
  const third = await cloud.login('ann', 'pw2', scope)
  assert.equal((await call('GET /auth/catalog', { token: third })).status, 200)
  await call(`PATCH /users/${id}`, { token: admin, body: { user: { enabled: false } } })
  assert.equal((await call('GET /auth/catalog', { token: third })).status, 401, 'a disabled user')
  await assert.rejects(cloud.login('ann', 'pw2'))
})

test('errors tell nothing to those who are not known, and are well formed', async t => {
  const { call } = await identityCloud(t)
  const answer = await call('POST /auth/tokens', {
    body: {
      auth: {
        identity: { methods: ['password'], password: { user: { name: 'nobody', password: 'x', domain: { id: 'default' } } } },
      },
    },
  })
  assert.equal(answer.status, 401)
  assert.deepEqual(answer.body, {
    error: { code: 401, title: 'Unauthorized', message: 'The request you have made requires authentication.' },
  })
  const wrong = await call('POST /auth/tokens', {
    body: {
      auth: {
        identity: {
          methods: ['password'],
          password: { user: { name: 'admin', password: `${PASSWORD}!`, domain: { id: 'default' } } },
        },
      },
    },
  })
  assert.deepEqual(wrong.body, answer.body)
  assert.equal((await call('GET /projects')).status, 401)
  assert.equal((await call('GET /nothing')).status, 404)
  assert.equal((await call('POST /auth/tokens', { body: { auth: {} } })).status, 400)
})

test('discovery', async t => {
  const { call, url } = await identityCloud(t)
  const root = await call(`GET ${url.replace(/\/v3$/, '/')}`)
  assert.equal(root.status, 300)
  assert.equal(root.body.versions.values[0].links[0].href, `${url}/`)
  assert.equal((await call('GET ')).body.version.id, 'v3.14')
  const home = await call('GET ', { headers: { accept: 'application/json-home' } })
  assert.match(home.headers.get('content-type')!, /json-home/)
  assert.ok(home.body.resources['https://docs.openstack.org/api/openstack-identity/3/rel/users'])
  assert.equal((await call(`GET ${url.replace(/\/v3$/, '/healthcheck')}`)).status, 200)
})
