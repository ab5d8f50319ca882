import assert from 'node:assert/strict'
import { createPrivateKey, createPublicKey } from 'node:crypto'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { fernetOpen, fernetSeal } from './fernet.ts'
import { JWS_ALGORITHMS, type JwsAlgorithm, jwsKeys, jwsOpen, jwsSeal, jwsSetup } from './jws.ts'
import { keyRepository, keyRotate, keySetup } from './keys.ts'
import vectors from './keystone-tokens.json' with { type: 'json' }
import { type Claims, payloadPack, payloadUnpack } from './payload.ts'

const METHODS = ['external', 'password', 'token', 'oauth1', 'mapped', 'application_credential']
const KEY = Buffer.from(vectors.key, 'base64url')

function folder(t: { after(fn: () => void): void }): string {
  const path = mkdtempSync(join(tmpdir(), 'nubo-keys-'))
  t.after(() => rmSync(path, { recursive: true }))
  return path
}

for (const { kind, args, token } of vectors.tokens) {
  test(`a token of a real Keystone: ${kind}`, () => {
    const opened = fernetOpen([KEY], token)
    assert.ok(opened)
    const claims = payloadUnpack(opened.plain, opened.issued, METHODS)
    assert.ok(claims)
    const want = args as Record<string, unknown>
    assert.equal(claims.userId, want.user_id)
    assert.deepEqual([...claims.methods].sort(), [...(want.methods as string[])].sort())
    assert.equal(claims.expires, Date.parse('2030-01-02T03:04:05Z') / 1000)
    assert.deepEqual(claims.auditIds, ['VcxU2JYqT8OzfUVvrjEITQ', 'qNUTIJntTzO1-XUk5STybw'])
    assert.equal(claims.projectId, want.project_id)
    assert.equal(claims.domainId, want.domain_id)
    assert.equal(claims.trustId, want.trust_id)
    assert.equal(claims.system, want.system)
    assert.equal(claims.appCredId, want.app_cred_id)
    assert.equal(claims.accessTokenId, want.access_token_id)
    assert.equal(claims.thumbprint, want.thumbprint)
    assert.deepEqual(payloadPack(claims, METHODS), opened.plain, 'packed again it is the same, byte for byte')
  })
}

test('what one seals, one opens; a changed byte or another key does not', () => {
  const claims: Claims = { userId: 'u', methods: ['password'], issued: 7, expires: 99, auditIds: ['VcxU2JYqT8OzfUVvrjEITQ'] }
  const token = fernetSeal([KEY], payloadPack(claims, METHODS), claims.issued)
  assert.deepEqual(payloadUnpack(fernetOpen([KEY], token)!.plain, 7, METHODS), claims)
  const changed = Buffer.from(token, 'base64url')
  changed[30]! ^= 1
  assert.equal(fernetOpen([KEY], changed.toString('base64url')), null)
  assert.equal(fernetOpen([Buffer.alloc(32)], token), null)
  for (const junk of ['', 'gAAAA', 'ü', token.slice(0, -4), `${token}!`]) assert.equal(fernetOpen([KEY], junk), null)
  assert.equal(payloadUnpack(Buffer.from('junk'), 0, METHODS), null)
})

test('rotation: a staged key is accepted before it encrypts, and old tokens stay readable until purged', t => {
  const path = folder(t)
  keySetup(path)
  keySetup(path)
  assert.deepEqual(readdirSync(path).sort(), ['0', '1'])
  const repository = keyRepository(path)
  const token = fernetSeal(repository.keys(), Buffer.from('hello'), 1)
  const staged = readFileSync(join(path, '0'), 'utf8')
  keyRotate(path, 3)
  assert.deepEqual(readdirSync(path).sort(), ['0', '1', '2'])
  assert.equal(readFileSync(join(path, '2'), 'utf8'), staged, 'the staged key became primary')
  assert.ok(fernetOpen(repository.reload(), token))
  keyRotate(path, 3)
  assert.deepEqual(readdirSync(path).sort(), ['0', '2', '3'])
  assert.equal(fernetOpen(repository.reload(), token), null)
})

for (const algorithm of Object.keys(JWS_ALGORITHMS) as JwsAlgorithm[]) {
  test(`JWS ${algorithm}`, t => {
    const path = folder(t)
    jwsSetup(join(path, 'private'), join(path, 'public'), algorithm)
    const { signing, checking } = jwsKeys(join(path, 'private'), join(path, 'public'))()
    const claims: Claims = {
      userId: 'u',
      methods: ['mapped'],
      issued: 1,
      expires: 2,
      auditIds: ['a'],
      projectId: 'p',
      groupIds: ['g'],
    }
    const token = jwsSeal(signing, algorithm, claims)
    assert.deepEqual(jwsOpen(checking, [algorithm], token), claims)
    assert.equal(jwsOpen(checking, [], token), null)
    const [head, , signature] = token.split('.')
    assert.equal(jwsOpen(checking, [algorithm], `${head}.${Buffer.from('{"sub":"x"}').toString('base64url')}.${signature}`), null)
    const none = Buffer.from('{"alg":"none"}').toString('base64url')
    assert.equal(jwsOpen(checking, [algorithm], `${none}.${token.split('.')[1]}.`), null)
    assert.equal(createPublicKey(createPrivateKey(readFileSync(join(path, 'private/private.pem')))).type, 'public')
  })
}
