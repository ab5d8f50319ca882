import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ADMIN_SCOPE, identityCloud, PASSWORD } from '../testing/cloud.ts'

test('a domain can be deleted as the project that it is: once it is disabled, with all that lives in it', async t => {
  const { call, admin } = await identityCloud(t)
  const token = await admin()
  const made = await call('POST /projects', { token, body: { project: { name: 'east', is_domain: true } } })
  const id = made.body.project.id
  const user = (await call('POST /users', { token, body: { user: { name: 'ann', domain_id: id } } })).body.user.id
  const inside = (await call('POST /projects', { token, body: { project: { name: 'p', domain_id: id } } })).body.project.id
  assert.equal((await call(`DELETE /projects/${id}`, { token })).status, 403)
  assert.equal((await call(`PATCH /projects/${id}`, { token, body: { project: { enabled: false } } })).status, 200)
  assert.equal((await call(`DELETE /projects/${id}`, { token })).status, 204)
  for (const gone of [`/domains/${id}`, `/users/${user}`, `/projects/${inside}`])
    assert.equal((await call(`GET ${gone}`, { token })).status, 404, gone)
})

test('the role of another domain is given on no project: 403, as whoever may give roles may not give this one', async t => {
  const cloud = await identityCloud(t)
  const { call } = cloud
  const token = await cloud.admin()
  const { domain } = (await call('POST /domains', { token, body: { domain: { name: 'east' } } })).body
  const { role } = (await call('POST /roles', { token, body: { role: { name: 'clerk', domain_id: domain.id } } })).body
  const { users } = (await call('GET /users?name=admin', { token })).body
  for (const [place, status] of [
    [`projects/${cloud.adminProjectId}`, 403],
    [`domains/${domain.id}`, 204],
    ['system', 400],
  ] as const)
    assert.equal((await call(`PUT /${place}/users/${users[0].id}/roles/${role.id}`, { token })).status, status, place)
})

for (const mode of ['off', 'new', 'strict']) {
  test(`names with characters that are reserved in URLs, where these are refused: ${mode}`, async t => {
    const { call, admin, db } = await identityCloud(
      t,
      `resource: { project_name_url_safe: ${mode}, domain_name_url_safe: ${mode} }`,
    )
    const token = await admin()
    const create = async (many: string, one: string, more: object = {}) => {
      const answers = []
      for (const char of ":/?#[]@!$&'()*+,;=")
        answers.push((await call(`POST /${many}`, { token, body: { [one]: { name: `a${char}b`, ...more } } })).status)
      return [...new Set(answers)]
    }
    const status = mode === 'off' ? 201 : 400
    assert.deepEqual(await create('projects', 'project'), [status])
    assert.deepEqual(await create('domains', 'domain'), [status])
    assert.deepEqual(await create('projects', 'project', { is_domain: true }), [mode === 'off' ? 409 : 400])
    assert.equal((await call('POST /projects', { token, body: { project: { name: 'a-b_c.d~e f' } } })).status, 201)

    // One that was made before names were refused: it may stay as it is, and change what is not its name.
    const { project } = (await call('POST /projects', { token, body: { project: { name: 'plain' } } })).body
    await db.tx(tx => tx.updateTable('keystone.projects').set({ name: 'x/y' }).where('id', '=', project.id).execute())
    const change = async (changes: object) =>
      (await call(`PATCH /projects/${project.id}`, { token, body: { project: changes } })).status
    assert.equal(await change({ name: 'x/y', description: 'old' }), 200)
    assert.equal(await change({ name: 'x/z' }), mode === 'off' ? 200 : 400)
    assert.equal(await change({ name: 'x/y' }), 200)
    const { users } = (await call('GET /users?name=admin', { token })).body
    const { roles } = (await call('GET /roles?name=member', { token })).body
    await call(`PUT /projects/${project.id}/users/${users[0].id}/roles/${roles[0].id}`, { token })
    const login = async (scope: object) => {
      const identity = {
        methods: ['password'],
        password: { user: { name: 'admin', domain: { id: 'default' }, password: PASSWORD } },
      }
      return (await call('POST /auth/tokens', { body: { auth: { identity, scope } } })).status
    }
    assert.equal(await login({ project: { name: 'x/y', domain: { id: 'default' } } }), mode === 'strict' ? 401 : 201)
    assert.equal(await login({ project: { id: project.id } }), 201)
    assert.equal(await login(ADMIN_SCOPE), 201)
  })
}
