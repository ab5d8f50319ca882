// How far administrators and managers of a domain and of a project reach.
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { type IdentityCloud, identityCloud, PASSWORD } from './testing/cloud.ts'

/** A domain with a project, and a user in it who has a role on the domain; another domain beside it. */
async function inDomain(t: TestContext, role: string) {
  const cloud = await identityCloud(t)
  const root = await cloud.admin()
  const made = async (plural: string, one: string, body: object): Promise<string> =>
    (await cloud.call(`POST /${plural}`, { token: root, body: { [one]: body } })).body[one].id
  const roles = new Map<string, string>()
  for (const { id, name } of (await cloud.call('GET /roles', { token: root })).body.roles) roles.set(name, id)
  const domain = await made('domains', 'domain', { name: 'own' })
  const other = await made('domains', 'domain', { name: 'other' })
  const project = await made('projects', 'project', { name: 'p', domain_id: domain })
  const foreign = await made('projects', 'project', { name: 'p', domain_id: other })
  const user = await made('users', 'user', { name: 'ann', password: PASSWORD, domain_id: domain })
  const stranger = await made('users', 'user', { name: 'bob', domain_id: other })
  await cloud.call(`PUT /domains/${domain}/users/${user}/roles/${roles.get(role)}`, { token: root })
  const token = await tokenOf(cloud, user, { domain: { id: domain } })
  const ask = async (request: string, body?: unknown) => (await cloud.call(request, { token, body })).status
  return { cloud, ask, token, roles, domain, other, project, foreign, user, stranger }
}

async function tokenOf(cloud: IdentityCloud, id: string, scope: unknown): Promise<string> {
  const identity = { methods: ['password'], password: { user: { id, password: PASSWORD } } }
  const { headers } = await cloud.call('POST /auth/tokens', { body: { auth: { identity, scope } } })
  return headers.get('x-subject-token')!
}

test('an administrator of a domain has the domain, and nothing outside it', async t => {
  const { cloud, ask, token, roles, domain, other, project, foreign, user, stranger } = await inDomain(t, 'admin')
  assert.equal(await ask('POST /users', { user: { name: 'new', domain_id: domain } }), 201)
  assert.equal(await ask('POST /users', { user: { name: 'new', domain_id: other } }), 403)
  assert.equal(await ask(`GET /users/${user}`), 200)
  assert.equal(await ask(`GET /users/${stranger}`), 403)
  assert.equal(await ask(`PATCH /users/${stranger}`, { user: { enabled: false } }), 403)
  assert.equal(await ask(`DELETE /users/${stranger}`), 403)
  assert.equal(await ask(`PUT /projects/${project}/tags/t`), 201)
  assert.equal(await ask(`PUT /projects/${foreign}/tags/t`), 403)
  assert.equal(await ask(`GET /domains/${other}`), 403)
  assert.equal(await ask('POST /domains', { domain: { name: 'third' } }), 403)
  assert.equal(await ask('POST /roles', { role: { name: 'r' } }), 403)
  const { domains } = (await cloud.call('GET /domains', { token })).body
  assert.deepEqual(
    domains.map((one: { id: string }) => one.id),
    [domain],
  )
  const custom = (await cloud.call('POST /roles', { token: await cloud.admin(), body: { role: { name: 'custom' } } })).body.role
  roles.set('custom', custom.id)
  for (const name of ['custom', 'manager', 'member'])
    assert.equal(await ask(`PUT /projects/${project}/users/${user}/roles/${roles.get(name)}`), 204, name)
  const own = `/projects/${project}/users/${user}/roles/${roles.get('admin')}`
  assert.equal(await ask(`PUT ${own}`), 403, 'an administrator of a project is one of the cloud')
  assert.equal(
    await ask(`PUT /OS-INHERIT/domains/${domain}/users/${user}/roles/${roles.get('admin')}/inherited_to_projects`),
    403,
  )
  assert.equal(await ask(`PUT /projects/${foreign}/users/${user}/roles/${roles.get('member')}`), 403)
  assert.equal(await ask(`PUT /projects/${project}/users/${stranger}/roles/${roles.get('member')}`), 403)
  assert.equal(await ask(`PUT /system/users/${user}/roles/${roles.get('reader')}`), 403)
})

test('a manager of a domain has it too, and gives no role above its own', async t => {
  const { ask, roles, domain, other, project, user } = await inDomain(t, 'manager')
  assert.equal(await ask('POST /users', { user: { name: 'new', domain_id: domain } }), 201)
  assert.equal(await ask('POST /users', { user: { name: 'new', domain_id: other } }), 403)
  assert.equal(await ask(`PUT /projects/${project}/users/${user}/roles/${roles.get('manager')}`), 204)
  assert.equal(await ask(`PUT /projects/${project}/users/${user}/roles/${roles.get('admin')}`), 403)
  assert.equal(await ask(`PATCH /domains/${domain}`, { domain: { description: 'mine' } }), 403)
})

test('no role implies that of administrators, nor a global one that of a domain', async t => {
  const { cloud, roles, domain } = await inDomain(t, 'member')
  const token = await cloud.admin()
  const role = async (body: object) => (await cloud.call('POST /roles', { token, body: { role: body } })).body.role.id
  const [prior, local] = [await role({ name: 'prior' }), await role({ name: 'local', domain_id: domain })]
  const imply = async (one: string, other?: string) => (await cloud.call(`PUT /roles/${one}/implies/${other}`, { token })).status
  assert.equal(await imply(prior, roles.get('admin')), 403)
  assert.equal(await imply(prior, local), 403)
  assert.equal(await imply(local, prior), 201)
  assert.equal(await imply(prior, prior), 400, 'a loop')
})

test('an administrator of any project is one of the cloud', async t => {
  const { cloud, roles, other, project, user } = await inDomain(t, 'member')
  await cloud.call(`PUT /projects/${project}/users/${user}/roles/${roles.get('admin')}`, { token: await cloud.admin() })
  const token = await tokenOf(cloud, user, { project: { id: project } })
  const body = { user: { name: 'new', domain_id: other } }
  assert.equal((await cloud.call('POST /users', { token, body })).status, 201)
})
