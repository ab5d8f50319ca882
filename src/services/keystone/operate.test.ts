import assert from 'node:assert/strict'
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { identityOf } from './identity.ts'
import { keysRotate, mappingTry, passwordReset } from './operate.ts'
import { identityCloud, PASSWORD } from './testing/cloud.ts'

test('keys are rotated while all goes on', async t => {
  const cloud = await identityCloud(t)
  const token = await cloud.admin()
  const me = (await cloud.call('GET /auth/tokens', { token, headers: { 'x-subject-token': token } })).body.token.user.id
  const credential = { type: 'totp', blob: 'secret', user_id: me }
  const { id } = (await cloud.call('POST /credentials', { token, body: { credential } })).body.credential
  const { fernet, receipts, credentials } = identityOf(cloud.env)
  const first = credentials.reload()[0]!
  assert.deepEqual([await keysRotate(cloud.env, 'tokens'), await keysRotate(cloud.env, 'receipts')], [0, 0])
  assert.equal((await cloud.call('GET /auth/projects', { token })).status, 200)
  for (const one of [fernet, receipts]) assert.deepEqual(readdirSync(one.folder).sort(), ['0', '1', '2'])
  for (let round = 0; round < 3; round++) assert.equal(await keysRotate(cloud.env, 'credentials'), 1)
  assert.ok(!credentials.reload().some(key => key.equals(first)), 'the first key is gone')
  assert.equal((await cloud.call(`GET /credentials/${id}`, { token })).body.credential.blob, 'secret')
})

test('an administrator who is locked out gets in again', async t => {
  const cloud = await identityCloud(t, 'security_compliance: { lockout_failure_attempts: 1 }')
  const old = await cloud.admin()
  await assert.rejects(cloud.login('admin', 'wrong'))
  await assert.rejects(cloud.login('admin', PASSWORD), 'locked')
  await passwordReset(cloud.env, 'admin', 'another')
  assert.ok(await cloud.login('admin', 'another'))
  assert.equal((await cloud.call('GET /auth/projects', { token: old })).status, 401)
  await assert.rejects(passwordReset(cloud.env, 'nobody', 'x'), /Could not find user: nobody/)
})

test('a mapping is tried without a cloud', t => {
  const folder = mkdtempSync(join(tmpdir(), 'nubo-mapping-'))
  t.after(() => rmSync(folder, { recursive: true }))
  const file = (name: string, value: unknown) => {
    writeFileSync(join(folder, name), JSON.stringify(value))
    return join(folder, name)
  }
  const rules = [{ local: [{ user: { name: '{0}' } }], remote: [{ type: 'REMOTE_USER' }] }]
  const assertion = file('assertion', { REMOTE_USER: 'ann' })
  assert.equal(mappingTry(file('rules', rules), assertion, '1.0').user.name, 'ann')
  assert.equal(mappingTry(file('mapping', { rules }), assertion, '1.0').user.name, 'ann')
  assert.throws(() => mappingTry(file('wrong', [{ local: [], remote: [] }]), assertion, '1.0'))
})
