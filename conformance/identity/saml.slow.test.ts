// SAML 2.0 against the code of others: assertions of pysaml2 open this cloud; ours hold for xmlsec and for keystoneauth's K2K.
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { programPath } from '#host/programs.ts'
import { run } from '#host/run.ts'
import { samlResponse, signerOf } from '#services/keystone/federation/saml_idp.ts'
import { identityCloud, PASSWORD } from '#services/keystone/testing/cloud.ts'
import { lacks, python, talk } from './python.ts'

const DASHBOARD = 'http://horizon.example/auth/websso/'
const ISSUER = 'http://idp.example/metadata'
const AUDIENCE = 'http://cloud.example/shibboleth'

/** As pysaml2 does, which signs by it. */
const noXmlsec = programPath('xmlsec1') === undefined && 'not installed: xmlsec1'

/** A cloud that trusts the provider whose certificate another one made. */
async function relying(t: TestContext, issuer: string, audience?: string) {
  const home = await identityCloud(t)
  const signer = await signerOf(home.env)
  const [certificate, key] = ['pem', 'key'].map(end => join(home.env.config.dataDir, `keystone/saml/signing.${end}`))
  const provider = [
    'identity_provider: home',
    "entry_point: 'http://idp.example/sso'",
    `certificate: '${certificate}'`,
    `issuer: '${issuer || `${home.url}/OS-FEDERATION/saml2/idp`}'`,
    ...(audience ? [`entity_id: '${audience}'`] : []),
  ]
  const cloud = await identityCloud(t, `federation: { trusted_dashboard: ['${DASHBOARD}'], saml: [{ ${provider.join(', ')} }] }`)
  const token = await cloud.admin()
  const put = async (path: string, body: unknown) => {
    const answer = await cloud.call(`PUT ${path}`, { token, body })
    assert.equal(answer.status, 201, JSON.stringify(answer.body))
  }
  const { project } = (await cloud.call('POST /projects', { token, body: { project: { name: 'works' } } })).body
  const { group } = (await cloud.call('POST /groups', { token, body: { group: { name: 'guests' } } })).body
  const role = (await cloud.call('GET /roles?name=member', { token })).body.roles[0].id
  assert.equal((await cloud.call(`PUT /projects/${project.id}/groups/${group.id}/roles/${role}`, { token })).status, 204)
  await put('/OS-FEDERATION/identity_providers/home', { identity_provider: { enabled: true } })
  const rules = [{ local: [{ user: { name: '{0}' } }, { group: { id: group.id } }], remote: [{ type: 'MELLON_NAME_ID' }] }]
  await put('/OS-FEDERATION/mappings/m', { mapping: { rules } })
  await put('/OS-FEDERATION/identity_providers/home/protocols/saml2', { protocol: { mapping_id: 'm' } })
  return { home, cloud, signer, certificate: certificate!, key: key! }
}

test('a browser with the answer of pysaml2', { skip: noXmlsec || lacks('keystone') }, async t => {
  const { cloud, certificate, key } = await relying(t, ISSUER, AUDIENCE)
  const recipient = `${cloud.url}/auth/OS-FEDERATION/saml2/acs`
  const idp = talk(t, 'saml.py', { issuer: ISSUER, audience: AUDIENCE, certificate, key, consumers: [recipient] })
  const away = async () => {
    const gone = await cloud.call(`GET /auth/OS-FEDERATION/websso/saml2?origin=${encodeURIComponent(DASHBOARD)}`)
    assert.equal(gone.status, 302, JSON.stringify(gone.body))
    return new URL(gone.headers.get('location')!).searchParams.get('RelayState')!
  }
  const come = async (xml: string) => {
    const form = new URLSearchParams({ SAMLResponse: Buffer.from(xml).toString('base64'), RelayState: await away() })
    const page = await fetch(recipient, { method: 'POST', body: form })
    return { status: page.status, html: await page.text() }
  }
  const say = (more: object = {}) =>
    idp.ask<string>({ subject: 'ann', recipient, attributes: { givenName: ['Ann & Co'], mail: ['a@b.example'] }, ...more })
  const answer = await say()
  const page = await come(answer)
  assert.equal(page.status, 200, page.html)
  const token = /id="token" value="([^"]+)"/.exec(page.html)![1]!
  const shown = (await cloud.call('GET /auth/projects', { token })).body.projects
  assert.deepEqual(
    shown.map((one: { name: string }) => one.name),
    ['works'],
  )
  assert.equal((await come(answer)).status, 401, 'the same answer again')
  assert.equal((await come(await say({ signResponse: true }))).status, 200, 'both signed')
  assert.equal((await come(await say({ signAssertion: false }))).status, 401, 'not signed')
  assert.equal((await come((await say()).replaceAll('>ann<', '>root<'))).status, 401, 'changed')
})

test("keystoneauth's enhanced client, by a password at the provider", { skip: noXmlsec || lacks('keystone') }, async t => {
  const { cloud, certificate, key } = await relying(t, ISSUER, AUDIENCE)
  const consumer = `${cloud.url}/auth/OS-FEDERATION/saml2/ecp/home/saml2`
  const idp = talk(t, 'saml.py', { issuer: ISSUER, audience: AUDIENCE, certificate, key, consumers: [consumer] })
  const answer = async (request: string): Promise<string> => {
    const [, recipient, id] = [0, 'AssertionConsumerServiceURL', 'ID'].map(
      name => new RegExp(`<samlp:AuthnRequest[^>]* ${name}="([^"]*)"`).exec(request)?.[1],
    )
    const xml = await idp.ask<string>({ subject: 'ann', recipient, inResponseTo: id, attributes: { mail: ['a@b.example'] } })
    return (
      '<S:Envelope xmlns:S="http://schemas.xmlsoap.org/soap/envelope/"><S:Header>' +
      `<ecp:Response xmlns:ecp="urn:oasis:names:tc:SAML:2.0:profiles:SSO:ecp" S:mustUnderstand="1" AssertionConsumerServiceURL="${recipient}"/>` +
      `</S:Header><S:Body>${xml.replace(/^<\?xml[^>]*\?>/, '')}</S:Body></S:Envelope>`
    )
  }
  const server = createServer((req, res) => {
    const parts: Buffer[] = []
    req.on('data', (part: Buffer) => parts.push(part))
    req.on('end', async () => {
      const right = req.headers.authorization === `Basic ${Buffer.from('ann:secret').toString('base64')}`
      res.setHeader('content-type', 'text/xml')
      if (right) res.end(await answer(Buffer.concat(parts).toString()))
      else res.writeHead(401).end()
    })
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.after(() => {
    server.close()
    server.closeAllConnections()
  })
  const login = (password: string) =>
    python<{ user?: string; roles?: string[]; status?: number }>('clients.py', {
      do: 'login',
      plugin: 'v3samlpassword',
      options: {
        auth_url: cloud.url,
        identity_provider: 'home',
        protocol: 'saml2',
        identity_provider_url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
        username: 'ann',
        password,
        project_name: 'works',
        project_domain_id: 'default',
      },
    })
  assert.deepEqual(await login('secret').then(({ user, roles }) => [user, roles]), ['ann', ['member', 'reader']])
  await assert.rejects(login('guess'), /Unauthorized|401|AuthorizationFailure|XMLSyntaxError/)
})

test("Keystone to Keystone by keystoneauth, and xmlsec's opinion of the signature", {
  skip: noXmlsec || lacks('keystoneauth1'),
}, async t => {
  const { home, cloud, signer, certificate } = await relying(t, '')
  const token = await home.admin()
  const service_provider = {
    enabled: true,
    auth_url: `${cloud.url}/OS-FEDERATION/identity_providers/home/protocols/saml2/auth`,
    sp_url: `${cloud.url}/auth/OS-FEDERATION/saml2/ecp/home/saml2`,
  }
  assert.equal((await home.call('PUT /OS-FEDERATION/service_providers/away', { token, body: { service_provider } })).status, 201)
  const login = await python<{ user: string; project: string; roles: string[] }>('clients.py', {
    do: 'k2k',
    home: {
      auth_url: home.url,
      username: 'admin',
      password: PASSWORD,
      user_domain_id: 'default',
      project_name: 'admin',
      project_domain_id: 'default',
    },
    provider: 'away',
    scope: { project_name: 'works', project_domain_id: 'default' },
  })
  assert.deepEqual([login.user, login.project, login.roles], ['admin', 'works', ['member', 'reader']])

  const file = join(home.env.config.dataDir, 'response.xml')
  const names = { issuer: 'a & b', recipient: 'http://x/?a=1&b="2"', subject: '<ann>\t\r\n', attributes: { 'é"': ['&', '<'] } }
  const verify = (xml: string) => {
    writeFileSync(file, xml)
    const id = 'urn:oasis:names:tc:SAML:2.0:assertion:Assertion'
    return run(['xmlsec1', '--verify', '--pubkey-cert-pem', certificate, '--id-attr:ID', id, file], { codes: [0, 1] })
  }
  const response = samlResponse({ ...names, life: 60 }, signer)
  const held = await verify(response)
  assert.equal(held.code, 0, held.stderr)
  assert.equal((await verify(response.replace('ann', 'bob'))).code, 1)
})
