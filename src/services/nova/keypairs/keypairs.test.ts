import assert from 'node:assert/strict'
import { createPublicKey } from 'node:crypto'
import { test } from 'node:test'
import { MEMBER, testCloud } from '#kit/http/test.ts'
import { nova } from '../service.ts'
import { sshFingerprint } from './keys.ts'

const at = (version: string) => ({ 'openstack-api-version': `compute ${version}` })
const ED25519 = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl user@host'

test('a fingerprint is what ssh-keygen prints, and nonsense has none', () => {
  assert.equal(sshFingerprint(ED25519), '65:96:2d:fc:e8:d5:a9:11:64:0c:0f:ea:00:6e:5b:bd')
  for (const bad of [
    '',
    'ssh-rsa',
    'ssh-rsa AAAA',
    ED25519.replace('ssh-ed25519', 'ssh-rsa'),
    'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMq',
  ]) {
    assert.throws(() => sshFingerprint(bad), /invalid/)
  }
})

test('key pairs are imported, generated up to 2.91, listed, shown and deleted', async t => {
  const { call } = await testCloud(t, [nova])
  const make = (keypair: object, version: string) =>
    call('POST /compute/v2.1/os-keypairs', { as: MEMBER, body: { keypair }, headers: at(version) })
  const made = await make({ name: 'gen' }, '2.2')
  assert.equal(made.status, 201)
  assert.match(made.body.keypair.private_key, /BEGIN RSA PRIVATE KEY/)
  const { n } = createPublicKey(made.body.keypair.private_key).export({ format: 'jwk' })
  assert.ok(Buffer.from(made.body.keypair.public_key.split(' ')[1], 'base64').includes(Buffer.from(n!, 'base64url')))
  const certificate = await make({ name: 'cert', type: 'x509' }, '2.2')
  assert.match(certificate.body.keypair.public_key, /BEGIN CERTIFICATE/)
  assert.match(certificate.body.keypair.fingerprint, /^([0-9a-f]{2}:){19}[0-9a-f]{2}$/)
  assert.equal((await make({ name: 'ed', public_key: ED25519 }, '2.1')).status, 200)
  assert.equal((await make({ name: 'ed', public_key: ED25519 }, '2.1')).status, 409)
  assert.equal((await make({ name: 'gen2' }, '2.92')).status, 400)
  assert.equal((await make({ name: 'a@b.c', public_key: ED25519 }, '2.91')).status, 400)
  assert.equal((await make({ name: 'a@b.c', public_key: ED25519 }, '2.92')).status, 201)
  assert.equal((await make({ name: 'bad', public_key: 'ssh-rsa x' }, '2.1')).status, 400)
  assert.equal((await make({ name: 'other', public_key: ED25519, user_id: 'u9' }, '2.10')).status, 403)

  const page = await call('GET /compute/v2.1/os-keypairs?limit=2', { as: MEMBER, headers: at('2.35') })
  assert.deepEqual(
    page.body.keypairs.map((k: { keypair: { name: string } }) => k.keypair.name),
    ['a@b.c', 'cert'],
  )
  assert.match(page.body.keypairs_links[0].href, /marker=cert/)
  assert.equal((await call('GET /compute/v2.1/os-keypairs?limit=2', { as: MEMBER })).body.keypairs.length, 4)
  const shown = await call('GET /compute/v2.1/os-keypairs/ed', { as: MEMBER })
  assert.equal(shown.body.keypair.user_id, 'u1')
  assert.ok(!('type' in shown.body.keypair))
  assert.equal((await call('GET /compute/v2.1/os-keypairs/ed?user_id=u1', { headers: at('2.10') })).body.keypair.name, 'ed')
  assert.equal((await call('GET /compute/v2.1/os-keypairs/ed')).status, 404)
  assert.equal((await call('DELETE /compute/v2.1/os-keypairs/ed', { as: MEMBER, headers: at('2.2') })).status, 204)
  assert.equal((await call('DELETE /compute/v2.1/os-keypairs/ed', { as: MEMBER })).status, 404)
})
