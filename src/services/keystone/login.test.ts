import assert from 'node:assert/strict'
import { test } from 'node:test'
import { base32, passcode } from './auth/totp.ts'
import { ADMIN_SCOPE, type IdentityCloud, identityCloud, PASSWORD } from './testing/cloud.ts'

const byPassword = (name: string, password: string) => ({
  methods: ['password'],
  password: { user: { name, password, domain: { id: 'default' } } },
})

async function userMake(cloud: IdentityCloud, name: string, password: string, more: object = {}): Promise<string> {
  const answer = await cloud.call('POST /users', { token: await cloud.admin(), body: { user: { name, password, ...more } } })
  assert.equal(answer.status, 201, JSON.stringify(answer.body))
  return answer.body.user.id
}

test('wrong passwords lock a user out, for a while; an administrator can let the user in again', async t => {
  const cloud = await identityCloud(t, 'security_compliance: { lockout_failure_attempts: 2, lockout_duration: 1 }')
  const id = await userMake(cloud, 'ann', 'right')
  const attempt = async (password: string) =>
    (await cloud.call('POST /auth/tokens', { body: { auth: { identity: byPassword('ann', password) } } })).status
  assert.equal(await attempt('right'), 201)
  assert.deepEqual([await attempt('a'), await attempt('b'), await attempt('right')], [401, 401, 401])
  await cloud.call(`PATCH /users/${id}`, { token: await cloud.admin(), body: { user: { enabled: true } } })
  assert.equal(await attempt('right'), 201)
  assert.deepEqual([await attempt('a'), await attempt('b'), await attempt('right')], [401, 401, 401])
  await cloud.db.tx(tx =>
    tx
      .updateTable('keystone.users')
      .set({ failed_auth_at: new Date(Date.now() - 2000) })
      .where('id', '=', id)
      .execute(),
  )
  assert.equal(await attempt('right'), 201, 'a lockout ends')
})

test('password rules: pattern, history, expiry, age, first use', async t => {
  const cloud = await identityCloud(
    t,
    "security_compliance: { password_regex: '^.{4,}$', password_regex_description: four, unique_last_password_count: 2, change_password_upon_first_use: true, minimum_password_age: 1 }",
  )
  const { call, db } = cloud
  await db.tx(tx => tx.updateTable('keystone.passwords').set({ expires_at: null }).execute())
  const token = await cloud.admin()
  assert.equal((await call('POST /users', { token, body: { user: { name: 'x', password: 'abc' } } })).status, 400)
  const id = await userMake(cloud, 'ann', 'first')
  const first = await call('POST /auth/tokens', { body: { auth: { identity: byPassword('ann', 'first') } } })
  assert.equal(first.status, 401)
  assert.match(first.body.error.message, /expired/)
  const change = async (original_password: string, password: string) =>
    (await call(`POST /users/${id}/password`, { body: { user: { original_password, password } } })).status
  assert.equal(await change('first', 'first'), 400, 'history')
  assert.equal(await change('wrong', 'second'), 401)
  assert.equal(await change('first', 'second'), 204)
  await cloud.login('ann', 'second')
  assert.equal(await change('second', 'third'), 400, 'too young')
  await call(`PATCH /users/${id}`, { token, body: { user: { options: { lock_password: true } } } })
  assert.equal(await change('second', 'third'), 400)
})

test('a user bound to two methods gets a receipt for one, and a token for both', async t => {
  const cloud = await identityCloud(t)
  const { call } = cloud
  const id = await userMake(cloud, 'ann', 'pw', {
    options: { multi_factor_auth_enabled: true, multi_factor_auth_rules: [['password', 'totp']] },
  })
  const secret = 'GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ'
  assert.equal(passcode(base32(secret)!, 59), '287082', 'RFC 6238, appendix B')
  const made = await call('POST /credentials', {
    token: await cloud.admin(),
    body: { credential: { type: 'totp', blob: secret, user_id: id } },
  })
  assert.equal(made.status, 201, JSON.stringify(made.body))
  const stored = await cloud.db.read.selectFrom('keystone.credentials').select('sealed').executeTakeFirstOrThrow()
  assert.equal(stored.sealed.includes(secret), false)
  const half = await call('POST /auth/tokens', { body: { auth: { identity: byPassword('ann', 'pw') } } })
  assert.equal(half.status, 401)
  assert.deepEqual(half.body.required_auth_methods, [['password', 'totp']])
  assert.deepEqual(half.body.receipt.methods, ['password'])
  const receipt = half.headers.get('openstack-auth-receipt')!
  const code = passcode(base32(secret)!, Date.now() / 1000)
  const totp = (given: string) => ({ methods: ['totp'], totp: { user: { id, passcode: given } } })
  const whole = await call('POST /auth/tokens', {
    headers: { 'openstack-auth-receipt': receipt },
    body: { auth: { identity: totp(code) } },
  })
  assert.equal(whole.status, 201, JSON.stringify(whole.body))
  assert.deepEqual([...whole.body.token.methods].sort(), ['password', 'totp'])
  const wrong = code === '000000' ? '111111' : '000000'
  assert.equal(
    (
      await call('POST /auth/tokens', {
        headers: { 'openstack-auth-receipt': receipt },
        body: { auth: { identity: totp(wrong) } },
      })
    ).status,
    401,
  )
  assert.equal(
    (await call('POST /auth/tokens', { headers: { 'openstack-auth-receipt': 'junk' }, body: { auth: { identity: totp(code) } } }))
      .status,
    401,
  )
})

test('application credentials: a part of the roles, for certain requests, gone with the role', async t => {
  const cloud = await identityCloud(t)
  const { call } = cloud
  const token = await cloud.admin()
  const me = (await call('GET /auth/tokens', { token, headers: { 'x-subject-token': token } })).body.token.user.id
  const base = `/users/${me}/application_credentials`
  const body = {
    name: 'a',
    roles: [{ name: 'reader' }],
    access_rules: [{ service: 'identity', method: 'GET', path: '/v3/regions' }],
    expires_at: new Date(Date.now() + 60_000).toISOString(),
  }
  const made = await call(`POST ${base}`, { token, body: { application_credential: body } })
  assert.equal(made.status, 201, JSON.stringify(made.body))
  const { id, secret } = made.body.application_credential
  assert.equal((await call(`POST ${base}`, { token, body: { application_credential: body } })).status, 409)
  assert.equal('secret' in (await call(`GET ${base}/${id}`, { token })).body.application_credential, false)
  const login = await call('POST /auth/tokens', {
    body: { auth: { identity: { methods: ['application_credential'], application_credential: { id, secret } } } },
  })
  assert.equal(login.status, 201, JSON.stringify(login.body))
  assert.deepEqual(
    login.body.token.roles.map((role: { name: string }) => role.name),
    ['reader'],
  )
  assert.equal(login.body.token.application_credential.restricted, true)
  const limited = login.headers.get('x-subject-token')!
  assert.equal((await call('GET /regions', { token: limited })).status, 200)
  assert.equal((await call('GET /auth/projects', { token: limited })).status, 401, 'no access rule allows it')
  const rule = made.body.application_credential.access_rules[0].id
  assert.equal((await call(`DELETE /users/${me}/access_rules/${rule}`, { token })).status, 403, 'in use')
  const free = await call(`POST ${base}`, { token, body: { application_credential: { name: 'free' } } })
  const other = await call('POST /auth/tokens', {
    body: {
      auth: {
        identity: {
          methods: ['application_credential'],
          application_credential: { name: 'free', user: { id: me }, secret: free.body.application_credential.secret },
        },
      },
    },
  })
  const restricted = other.headers.get('x-subject-token')!
  assert.equal(
    (await call(`POST ${base}`, { token: restricted, body: { application_credential: { name: 'more' } } })).status,
    403,
  )
  assert.equal(
    (
      await call('POST /auth/tokens', {
        body: { auth: { identity: { methods: ['token'], token: { id: restricted } }, scope: ADMIN_SCOPE } },
      })
    ).status,
    403,
  )
  assert.equal((await call(`DELETE ${base}/${id}`, { token })).status, 204)
  assert.equal((await call('GET /regions', { token: limited })).status, 401)
})

test('trusts: impersonation, limited uses, no more than was given, ended by the trustor', async t => {
  const cloud = await identityCloud(t)
  const { call, adminProjectId } = cloud
  const admin = await cloud.admin()
  const me = (await call('GET /auth/tokens', { token: admin, headers: { 'x-subject-token': admin } })).body.token.user.id
  const bob = await userMake(cloud, 'bob', 'pw')
  const wish = {
    trustor_user_id: me,
    trustee_user_id: bob,
    project_id: adminProjectId,
    impersonation: true,
    roles: [{ name: 'member' }],
    remaining_uses: 2,
  }
  const made = await call('POST /OS-TRUST/trusts', { token: admin, body: { trust: wish } })
  assert.equal(made.status, 201, JSON.stringify(made.body))
  const trust = made.body.trust.id
  const unscoped = await cloud.login('bob', 'pw')
  const use = () =>
    call('POST /auth/tokens', {
      body: { auth: { identity: { methods: ['token'], token: { id: unscoped } }, scope: { 'OS-TRUST:trust': { id: trust } } } },
    })
  const used = await use()
  assert.equal(used.status, 201, JSON.stringify(used.body))
  assert.equal(used.body.token.user.id, me)
  assert.deepEqual(
    used.body.token.roles.map((role: { name: string }) => role.name),
    ['member', 'reader'],
  )
  const delegated = used.headers.get('x-subject-token')!
  assert.equal((await call('GET /auth/catalog', { token: delegated })).status, 200)
  assert.equal(
    (await call('POST /auth/tokens', { body: { auth: { identity: { methods: ['token'], token: { id: delegated } } } } })).status,
    403,
  )
  assert.equal(
    (
      await call(`POST /users/${me}/application_credentials`, {
        token: delegated,
        body: { application_credential: { name: 'x' } },
      })
    ).status,
    403,
  )
  assert.equal((await use()).status, 201)
  assert.equal((await use()).status, 401, 'used up')
  const second = await call('POST /OS-TRUST/trusts', { token: admin, body: { trust: { ...wish, remaining_uses: null } } })
  assert.equal((await call(`DELETE /OS-TRUST/trusts/${second.body.trust.id}`, { token: unscoped })).status, 403)
  assert.equal(
    (
      await call('POST /OS-TRUST/trusts', {
        token: unscoped,
        body: { trust: { ...wish, trustor_user_id: bob, trustee_user_id: me } },
      })
    ).status,
    404,
    'not his to give',
  )
  await call(`PATCH /users/${bob}`, { token: admin, body: { user: { enabled: false } } })
  assert.equal((await call('GET /auth/catalog', { token: delegated })).status, 401, 'trustee disabled')
})

test('what one process changes, another knows at once; and without notifications nothing is remembered', async t => {
  const one = await identityCloud(t)
  const two = await identityCloud(t, '', { db: one.db, folder: one.env.config.dataDir })
  const id = await userMake(one, 'ann', 'pw')
  const token = await one.login('ann', 'pw')
  assert.equal((await two.call(`GET /users/${id}`, { token })).status, 200)
  const started = performance.now()
  assert.equal(
    (await one.call(`PATCH /users/${id}`, { token: await one.admin(), body: { user: { enabled: false } } })).status,
    200,
  )
  assert.equal((await two.call(`GET /users/${id}`, { token })).status, 401)
  assert.ok(performance.now() - started < 5000)
  // A change that nobody was told of: only what is in the table of changes, as the poll finds it.
  const bob = await userMake(one, 'bob', PASSWORD)
  const his = await one.login('bob', PASSWORD)
  assert.equal((await two.call(`GET /users/${bob}`, { token: his })).status, 200)
  await one.db.tx(async tx => {
    await tx.updateTable('keystone.users').set({ enabled: false }).where('id', '=', bob).execute()
    await tx
      .insertInto('keystone.stales')
      .values({ keys: [`user:${bob}`] })
      .execute()
  })
  const until = performance.now() + 8000
  while ((await two.call(`GET /users/${bob}`, { token: his })).status !== 401)
    assert.ok(performance.now() < until, 'the poll must find it')
})

test('what is made, changed and deleted is told, and so are failed logins, without secrets', async t => {
  const report =
    'report_invalid_password_hash: [event], invalid_password_hash_secret_key: pepper, invalid_password_hash_max_chars: 5'
  const cloud = await identityCloud(t, `security_compliance: { ${report} }`)
  const id = await userMake(cloud, 'ann', 'hush-hush')
  const token = await cloud.admin()
  await cloud.call(`PATCH /users/${id}`, { token, body: { user: { description: 'x', password: 'hush-again' } } })
  await cloud.call('POST /auth/tokens', { body: { auth: { identity: byPassword('ann', 'hush-wrong') } } })
  await cloud.call(`DELETE /users/${id}`, { token })
  const rows = await cloud.db.read
    .selectFrom('kit.events')
    .select('payload')
    .where('name', '=', 'keystone.audit')
    .orderBy('id')
    .execute()
  type Told = { event_type: string; payload: { outcome: string; attachments?: { content: string }[] } }
  const told = rows.map(row => row.payload as Told)
  assert.deepEqual(
    told.map(one => `${one.event_type} ${one.payload.outcome}`),
    [
      'identity.user.created success',
      'identity.user.updated success',
      'identity.authenticate failure',
      'identity.user.deleted success',
    ],
  )
  // As Keystone makes it of that guess and that key.
  assert.deepEqual(
    told.map(one => one.payload.attachments?.[0]?.content),
    [undefined, undefined, '8Xw0p', undefined],
  )
  assert.equal(JSON.stringify(rows).includes('hush'), false)
})
