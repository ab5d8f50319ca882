import assert from 'node:assert/strict'
import { generateKeyPairSync, sign } from 'node:crypto'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type TestContext, test } from 'node:test'
import { identityCloud } from '../testing/cloud.ts'

const b64 = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url')

/** An OpenID provider: discovery, keys, a token endpoint that gives what was asked to be given. */
async function provider(t: TestContext) {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const state = { claims: {} as Record<string, unknown>, tokenRequest: '' }
  let issuer = ''
  const jwt = (claims: Record<string, unknown>, alg = 'ES256') => {
    const text = `${b64({ alg, kid: 'k1' })}.${b64({ iss: issuer, aud: 'nubo', exp: Date.now() / 1000 + 60, ...claims })}`
    return `${text}.${sign('sha256', Buffer.from(text), { key: privateKey, dsaEncoding: 'ieee-p1363' }).toString('base64url')}`
  }
  const server = createServer((req, res) => {
    const answer = (body: unknown) => res.setHeader('content-type', 'application/json').end(JSON.stringify(body))
    if (req.url === '/.well-known/openid-configuration') {
      answer({
        issuer,
        jwks_uri: `${issuer}/jwks`,
        authorization_endpoint: `${issuer}/authorize`,
        token_endpoint: `${issuer}/token`,
        introspection_endpoint: `${issuer}/introspect`,
      })
    } else if (req.url === '/jwks') answer({ keys: [{ ...publicKey.export({ format: 'jwk' }), kid: 'k1', use: 'sig' }] })
    else {
      let body = ''
      req.on('data', part => {
        body += part
      })
      req.on('end', () => {
        state.tokenRequest = body
        if (req.url === '/token') answer({ id_token: jwt(state.claims), access_token: 'x' })
        else
          answer(
            body.includes('token=opaque') ? { active: true, client_id: 'nubo', sub: 'ann', email: 'ann@x' } : { active: false },
          )
      })
    }
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.after(() => server.close())
  issuer = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return { issuer, jwt, state }
}

async function federated(t: TestContext) {
  const idp = await provider(t)
  const cloud = await identityCloud(
    t,
    `federation: { trusted_dashboard: ['http://horizon/auth/websso/'], openid: [{ identity_provider: acme, issuer: '${idp.issuer}', client_id: nubo, client_secret: s }] }`,
  )
  const { call } = cloud
  const token = await cloud.admin()
  const group = (await call('POST /groups', { token, body: { group: { name: 'devs' } } })).body.group.id
  const project = (await call('POST /projects', { token, body: { project: { name: 'shared' } } })).body.project.id
  const role = (await call('GET /roles?name=member', { token })).body.roles[0].id
  assert.equal((await call(`PUT /projects/${project}/groups/${group}/roles/${role}`, { token })).status, 204)
  const made = await call('PUT /OS-FEDERATION/identity_providers/acme', {
    token,
    body: { identity_provider: { enabled: true, remote_ids: [idp.issuer] } },
  })
  assert.equal(made.status, 201, JSON.stringify(made.body))
  const rules = [
    {
      local: [{ user: { name: '{0}', email: '{1}' } }, { group: { id: group } }],
      remote: [{ type: 'OIDC-sub' }, { type: 'OIDC-email' }],
    },
    {
      local: [{ projects: [{ name: 'own', roles: [{ name: 'member' }] }] }],
      remote: [{ type: 'OIDC-realm.roles', any_one_of: ['builder'] }],
    },
  ]
  assert.equal((await call('PUT /OS-FEDERATION/mappings/m', { token, body: { mapping: { rules } } })).status, 201)
  const protocol = { mapping_id: 'm', remote_id_attribute: 'HTTP_OIDC_ISS' }
  assert.equal(
    (await call('PUT /OS-FEDERATION/identity_providers/acme/protocols/openid', { token, body: { protocol } })).status,
    201,
  )
  const auth = (bearer: string) =>
    call('GET /OS-FEDERATION/identity_providers/acme/protocols/openid/auth', { headers: { authorization: `Bearer ${bearer}` } })
  return { ...cloud, idp, auth, project, admin: token, group }
}

test("a provider's access token becomes an unscoped token, and that a scoped one with the groups' roles", async t => {
  const { call, idp, auth, project, admin } = await federated(t)
  const login = await auth(idp.jwt({ sub: 'ann', email: 'ann@x', realm: { roles: ['builder'] } }))
  assert.equal(login.status, 201, JSON.stringify(login.body))
  const { user } = login.body.token
  assert.equal(user.name, 'ann')
  assert.equal(user['OS-FEDERATION'].identity_provider.id, 'acme')
  const token = login.headers.get('x-subject-token')!
  const mine = (await call('GET /OS-FEDERATION/projects', { token })).body.projects.map((one: { name: string }) => one.name)
  assert.deepEqual(mine.sort(), ['own', 'shared'])
  const scoped = await call('POST /auth/tokens', {
    body: { auth: { identity: { methods: ['token'], token: { id: token } }, scope: { project: { id: project } } } },
  })
  assert.equal(scoped.status, 201, JSON.stringify(scoped.body))
  assert.deepEqual(
    scoped.body.token.roles.map((one: { name: string }) => one.name),
    ['member', 'reader'],
  )
  const again = await auth(idp.jwt({ sub: 'ann', email: 'ann@y', realm: { roles: [] } }))
  assert.equal(again.body.token.user.id, user.id, 'the same shadow')
  assert.equal((await auth('opaque')).body.token.user.id, user.id, 'by introspection')
  const posted = await call('POST /OS-FEDERATION/identity_providers/acme/protocols/openid/auth', {
    headers: { authorization: 'Bearer opaque' },
  })
  assert.equal(posted.body.token.user.id, user.id, 'by POST')
  assert.equal((await call(`GET /users?idp_id=acme&unique_id=ann`, { token: admin })).body.users[0].id, user.id)
  const disabled = await call('PATCH /OS-FEDERATION/identity_providers/acme', {
    token: admin,
    body: { identity_provider: { enabled: false } },
  })
  assert.equal(disabled.status, 200)
  assert.equal((await call('GET /auth/projects', { token: scoped.headers.get('x-subject-token')! })).status, 401)
  assert.equal((await auth(idp.jwt({ sub: 'ann', email: 'a' }))).status, 403)
})

test('forged, expired and foreign tokens are refused alike', async t => {
  const { idp, auth } = await federated(t)
  const good = idp.jwt({ sub: 'ann', email: 'ann@x' })
  const [head, body, signature] = good.split('.') as [string, string, string]
  const forged = b64({ iss: idp.issuer, aud: 'nubo', exp: Date.now() / 1000 + 60, sub: 'root', email: 'r' })
  for (const bad of [
    `${head}.${forged}.${signature}`,
    `${b64({ alg: 'none' })}.${body}.`,
    `${b64({ alg: 'HS256', kid: 'k1' })}.${body}.${signature}`,
    `${b64({ alg: 'RS256', kid: 'k1' })}.${body}.${signature}`,
    idp.jwt({ sub: 'a', email: 'b', exp: Date.now() / 1000 - 120 }),
    idp.jwt({ sub: 'a', email: 'b', aud: 'other' }),
    idp.jwt({ sub: 'a', email: 'b', iss: 'http://evil' }),
    'unknown',
    'a.b.c',
  ]) {
    const answer = await auth(bad)
    assert.equal(answer.status, 401, bad)
    assert.equal(answer.body.error.message, 'The request you have made requires authentication.')
  }
  assert.equal((await auth(idp.jwt({ sub: 'ann' }))).status, 400, 'no rule holds')
})

test('a browser comes back with a code, and the dashboard gets the token', async t => {
  const { call, idp } = await federated(t)
  const path = '/auth/OS-FEDERATION/websso/openid?origin='
  assert.equal((await call(`GET ${path}http://evil/`)).status, 401)
  const away = await call(`GET ${path}${encodeURIComponent('http://horizon/auth/websso/')}`)
  assert.equal(away.status, 302, JSON.stringify(away.body))
  const named = `/auth/OS-FEDERATION/identity_providers/acme/protocols/openid/websso?origin=${encodeURIComponent('http://horizon/auth/websso/')}`
  for (const other of [`POST ${path}${encodeURIComponent('http://horizon/auth/websso/')}`, `GET ${named}`, `POST ${named}`])
    assert.equal((await call(other)).status, 302, other)
  const url = new URL(away.headers.get('location')!)
  assert.equal(url.searchParams.get('code_challenge_method'), 'S256')
  idp.state.claims = { sub: 'bob', email: 'bob@x', nonce: url.searchParams.get('nonce') }
  const cookie = away.headers.get('set-cookie')!.split(';')[0]!
  const back = `/auth/OS-FEDERATION/oidc/callback?code=c&state=${encodeURIComponent(url.searchParams.get('state')!)}`
  assert.equal((await call(`GET ${back}`)).status, 401, 'another browser')
  const page = await call(`GET ${back}`, { headers: { cookie } })
  assert.equal(page.status, 200, JSON.stringify(page.body))
  assert.match(page.body, /action="http:\/\/horizon\/auth\/websso\/"/)
  assert.match(idp.state.tokenRequest, /code_verifier=/)
  const token = /name="token" id="token" value="([^"]+)"/.exec(page.body)![1]!
  assert.equal((await call('GET /auth/projects', { token })).status, 200)
  idp.state.claims = { ...idp.state.claims, nonce: 'other' }
  assert.equal((await call(`GET ${back}`, { headers: { cookie } })).status, 401, 'an answer to another question')
})
