import assert from 'node:assert/strict'
import { test } from 'node:test'
import { identityCloud } from '../testing/cloud.ts'
import { baseString, encode, oauthParameters, sign, signatureHolds } from './signature.ts'

test('what oauthlib signs', () => {
  const header =
    'OAuth oauth_nonce="wIjqoxSFrkk", oauth_timestamp="137131200", oauth_version="1.0", oauth_signature_method="HMAC-SHA1", oauth_consumer_key="dpf43f3p2l4k3l03", oauth_token="tok%20en", oauth_callback="http%3A%2F%2Fprinter.example.com%2Fready", oauth_signature="JIflenwo6qIcThPj7kVKGiu47os%3D"'
  const parameters = oauthParameters(header)!
  const url = new URL('https://photos.example.net:8443/initiate?size=a%20b&b=2')
  assert.ok(signatureHolds('POST', url, parameters, 'kd94hf93k423kf44', 's&c'))
  assert.equal(signatureHolds('POST', url, parameters, 'other', 's&c'), false)
  assert.equal(oauthParameters('Basic x'), null)
})

test('a user authorizes a consumer, which then gets tokens with the roles it was given, until revoked', async t => {
  const { call, admin, url, adminProjectId } = await identityCloud(t)
  const token = await admin()
  const { consumer } = (await call('POST /OS-OAUTH1/consumers', { token, body: { consumer: { description: 'printer' } } })).body
  assert.ok(consumer.secret)
  assert.equal('secret' in (await call(`GET /OS-OAUTH1/consumers/${consumer.id}`, { token })).body.consumer, false)

  let nonce = 0
  const signed = (path: string, more: Record<string, string>, secret = '') => {
    const oauth: Record<string, string> = {
      oauth_consumer_key: consumer.id,
      oauth_signature_method: 'HMAC-SHA1',
      oauth_timestamp: String(Math.floor(Date.now() / 1000)),
      oauth_nonce: String(nonce++),
      oauth_version: '1.0',
      ...more,
    }
    oauth.oauth_signature = sign(baseString('POST', new URL(url + path), oauth), consumer.secret, secret)
    return {
      authorization: `OAuth ${Object.entries(oauth)
        .map(([name, value]) => `${name}="${encode(value)}"`)
        .join(', ')}`,
    }
  }
  const form = (text: string) => Object.fromEntries(new URLSearchParams(text)) as Record<string, string>

  const asked = await call('POST /OS-OAUTH1/request_token', {
    headers: { ...signed('/OS-OAUTH1/request_token', { oauth_callback: 'oob' }), 'requested-project-id': adminProjectId },
  })
  assert.equal(asked.status, 201, JSON.stringify(asked.body))
  const request = form(asked.body)
  const role = (await call('GET /roles?name=reader', { token })).body.roles[0]
  const authorized = await call(`PUT /OS-OAUTH1/authorize/${request.oauth_token}`, { token, body: { roles: [{ id: role.id }] } })
  assert.equal(authorized.status, 200, JSON.stringify(authorized.body))
  const verifier = authorized.body.token.oauth_verifier
  const wrong = await call('POST /OS-OAUTH1/access_token', {
    headers: signed(
      '/OS-OAUTH1/access_token',
      { oauth_token: request.oauth_token!, oauth_verifier: 'no' },
      request.oauth_token_secret,
    ),
  })
  assert.equal(wrong.status, 401)
  const got = await call('POST /OS-OAUTH1/access_token', {
    headers: signed(
      '/OS-OAUTH1/access_token',
      { oauth_token: request.oauth_token!, oauth_verifier: verifier },
      request.oauth_token_secret,
    ),
  })
  assert.equal(got.status, 201, JSON.stringify(got.body))
  const access = form(got.body)

  const login = await call('POST /auth/tokens', {
    headers: signed('/auth/tokens', { oauth_token: access.oauth_token! }, access.oauth_token_secret),
    body: { auth: { identity: { methods: ['oauth1'], oauth1: {} } } },
  })
  assert.equal(login.status, 201, JSON.stringify(login.body))
  assert.deepEqual(
    login.body.token.roles.map((one: { name: string }) => one.name),
    ['reader'],
  )
  assert.equal(login.body.token['OS-OAUTH1'].consumer_id, consumer.id)
  const delegated = login.headers.get('x-subject-token')!
  assert.equal((await call('GET /auth/catalog', { token: delegated })).status, 200)
  const me = login.body.token.user.id
  assert.equal((await call(`GET /users/${me}/OS-OAUTH1/access_tokens`, { token })).body.access_tokens.length, 1)
  assert.equal(
    (await call(`GET /users/${me}/OS-OAUTH1/access_tokens/${access.oauth_token}/roles`, { token })).body.roles[0].id,
    role.id,
  )
  const one = `/users/${me}/OS-OAUTH1/access_tokens/${access.oauth_token}`
  assert.equal((await call(`GET ${one}`, { token })).body.access_token.consumer_id, consumer.id)
  assert.equal((await call(`GET ${one}/roles/${role.id}`, { token })).body.role.name, 'reader')
  assert.equal((await call(`DELETE ${one}`, { token })).status, 204)
  assert.equal((await call('GET /auth/catalog', { token: delegated })).status, 401)
})
