// Keystone's own code beside this service, on the same key repositories: each takes what the other made.
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { test } from 'node:test'
import { identityCloud, PASSWORD } from '#services/keystone/testing/cloud.ts'
import { type Hashing, passwordHash, passwordVerify } from '#services/keystone/users/passwords.ts'
import { lacks, talk } from './python.ts'

const skip = lacks('keystone')
const AUDIT = ['VcxU2JYqT8OzfUVvrjEITQ', 'qNUTIJntTzO1-XUk5STybw']

test('tokens, before and after either side rotates the keys', { skip }, async t => {
  const cloud = await identityCloud(t, 'auth: { methods: [external, password, token, oauth1, mapped, application_credential] }')
  const folder = join(cloud.env.config.dataDir, 'keystone')
  const ours = await cloud.admin()
  const keystone = talk(t, 'real_keystone.py', { folder })
  const check = async (token: string) => {
    const answer = await cloud.call('GET /auth/tokens', { token: await cloud.admin(), headers: { 'x-subject-token': token } })
    return answer.status === 200 ? answer.body.token : answer.status
  }
  const mine = (await check(ours)) as { user: { id: string }; audit_ids: string[]; expires_at: string }
  const opened = await keystone.ask<Record<string, unknown>>(['open_token', ours])
  assert.equal(opened.user_id, mine.user.id)
  assert.equal(opened.project_id, cloud.adminProjectId)
  assert.deepEqual(opened.methods, ['password'])
  assert.deepEqual(opened.audit_ids, mine.audit_ids)
  assert.equal(opened.expires_at, mine.expires_at)

  const system = await cloud.login('admin', PASSWORD, { system: { all: true } })
  assert.equal((await keystone.ask<Record<string, unknown>>(['open_token', system])).system, 'all')

  const claims = {
    user_id: mine.user.id,
    expires_at: new Date(Date.now() + 600_000).toISOString(),
    audit_ids: AUDIT,
    methods: ['password', 'token'],
  }
  const theirs = (kind: string, more: object) => keystone.ask<string>(['seal_token', { ...claims, kind, ...more }])
  const scoped = await theirs('ProjectScopedPayload', { project_id: cloud.adminProjectId })
  const seen = await check(scoped)
  assert.deepEqual([seen.user.name, seen.project.name, seen.audit_ids], ['admin', 'admin', AUDIT])
  assert.equal((await check(await theirs('UnscopedPayload', {}))).user.name, 'admin')
  assert.deepEqual((await check(await theirs('SystemScopedPayload', { system: 'all' }))).system, { all: true })
  const foreign = await theirs('ProjectScopedPayload', { project_id: '0'.repeat(32) })
  assert.equal(await check(foreign), 404, 'no such project')

  await keystone.ask(['rotate', null])
  assert.equal((await check(scoped)).user.name, 'admin', 'sealed before the rotation')
  const fresh = await theirs('ProjectScopedPayload', { project_id: cloud.adminProjectId, audit_ids: [AUDIT[1]] })
  assert.equal((await check(fresh)).user.name, 'admin', 'by the staged key, which was known before it was used')
})

test('signed tokens', { skip }, async t => {
  const cloud = await identityCloud(t, 'token: { provider: jws }')
  const ours = await cloud.admin()
  assert.equal(ours.split('.').length, 3)
  const keystone = talk(t, 'real_keystone.py', { folder: join(cloud.env.config.dataDir, 'keystone') })
  const { user } = (await cloud.call('GET /auth/tokens', { token: ours, headers: { 'x-subject-token': ours } })).body.token
  assert.equal(await keystone.ask(['open_jws', ours]), user.id)
  const theirs = await keystone.ask<string>([
    'seal_jws',
    {
      user_id: user.id,
      project_id: cloud.adminProjectId,
      expires_at: new Date(Date.now() + 600_000).toISOString(),
      audit_ids: [AUDIT[0]],
      methods: ['password'],
    },
  ])
  const seen = await cloud.call('GET /auth/tokens', { token: ours, headers: { 'x-subject-token': theirs } })
  assert.equal(seen.body.token?.project.name, 'admin', JSON.stringify(seen.body))
})

test('receipts, credentials and password hashes', { skip }, async t => {
  const cloud = await identityCloud(
    t,
    'auth: { methods: [external, password, token, oauth1, mapped, application_credential, totp] }',
  )
  const token = await cloud.admin()
  const keystone = talk(t, 'real_keystone.py', { folder: join(cloud.env.config.dataDir, 'keystone') })
  const made = await cloud.call('POST /credentials', {
    token,
    body: { credential: { type: 'totp', blob: 'GEZDGNBVGY3TQOJQ', user_id: 'u' } },
  })
  const { sealed } = await cloud.db.read
    .selectFrom('keystone.credentials')
    .select('sealed')
    .where('id', '=', made.body.credential.id)
    .executeTakeFirstOrThrow()
  assert.equal(await keystone.ask(['open_credential', sealed]), 'GEZDGNBVGY3TQOJQ')

  const options = { multi_factor_auth_enabled: true, multi_factor_auth_rules: [['password', 'totp']] }
  const user = { name: 'ann', password: 'secret', options }
  assert.equal((await cloud.call('POST /users', { token, body: { user } })).status, 201)
  const half = await cloud.call('POST /auth/tokens', {
    body: {
      auth: {
        identity: { methods: ['password'], password: { user: { name: 'ann', password: 'secret', domain: { id: 'default' } } } },
      },
    },
  })
  const receipt = await keystone.ask<{ methods: string[] }>(['open_receipt', half.headers.get('openstack-auth-receipt')!])
  assert.deepEqual(receipt.methods, ['password'])

  for (const algorithm of ['scrypt', 'bcrypt', 'pbkdf2_sha512'] as const) {
    const how: Hashing = { algorithm, rounds: algorithm === 'pbkdf2_sha512' ? 1000 : 4 }
    const hash = await passwordHash('pässword', how)
    assert.equal(await keystone.ask(['check_password', { password: 'pässword', hash }]), true, algorithm)
    assert.equal(await keystone.ask(['check_password', { password: 'password', hash }]), false, algorithm)
    const theirs = await keystone.ask<string>(['hash_password', { password: 'pässword', algorithm }])
    assert.equal(await passwordVerify('pässword', theirs, how), true, theirs)
    assert.equal(await passwordVerify('password', theirs, how), false, theirs)
  }
})
