import assert from 'node:assert/strict'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { type IdentityCloud, identityCloud } from '../testing/cloud.ts'
import { samlResponse, signerOf } from './saml_idp.ts'

/** Two clouds: the users of one get into the other by signed assertions. */
async function pair(t: TestContext) {
  const home = await identityCloud(t)
  const signer = await signerOf(home.env)
  const certificate = join(home.env.config.dataDir, 'keystone/saml/signing.pem')
  const away = await identityCloud(
    t,
    `federation: { trusted_dashboard: ['http://horizon/'], saml: [{ identity_provider: home, entry_point: 'http://home/sso', certificate: '${certificate}' }] }`,
  )
  const token = await away.admin()
  const put = async (path: string, body: unknown) => {
    const answer = await away.call(`PUT ${path}`, { token, body })
    assert.equal(answer.status, 201, JSON.stringify(answer.body))
  }
  const rules = [
    {
      local: [{ user: { name: '{0}' } }],
      remote: [{ type: 'openstack_user' }, { type: 'openstack_roles', any_one_of: ['admin'] }],
    },
  ]
  await put('/OS-FEDERATION/identity_providers/home', { identity_provider: { enabled: true } })
  await put('/OS-FEDERATION/mappings/m', { mapping: { rules } })
  await put('/OS-FEDERATION/identity_providers/home/protocols/saml2', { protocol: { mapping_id: 'm' } })
  const spUrl = `${away.url}/auth/OS-FEDERATION/saml2/ecp/home/saml2`
  return { home, away, signer, spUrl }
}

const post = async (url: string, xml: string) =>
  fetch(url, { method: 'POST', body: xml, redirect: 'manual', headers: { 'content-type': 'application/vnd.paos+xml' } })

async function enter(away: IdentityCloud, answer: Response) {
  const cookie = answer.headers.get('set-cookie')!.split(';')[0]!
  return away.call(`GET ${answer.headers.get('location')}`, { headers: { cookie } })
}

test('Keystone to Keystone: an ECP assertion of one cloud opens another, once', async t => {
  const { home, away, spUrl } = await pair(t)
  const token = await home.admin()
  const sp = { enabled: true, auth_url: `${away.url}/OS-FEDERATION/identity_providers/home/protocols/saml2/auth`, sp_url: spUrl }
  assert.equal(
    (await home.call('PUT /OS-FEDERATION/service_providers/away', { token, body: { service_provider: sp } })).status,
    201,
  )
  const shown = await home.call('GET /auth/tokens', { token, headers: { 'x-subject-token': token } })
  assert.equal(shown.body.token.service_providers[0].id, 'away')
  const body = { auth: { identity: { methods: ['token'], token: { id: token } }, scope: { service_provider: { id: 'away' } } } }
  const assertion = await home.call('POST /auth/OS-FEDERATION/saml2/ecp', { body })
  assert.equal(assertion.status, 200, JSON.stringify(assertion.body))
  const answer = await post(spUrl, assertion.body)
  assert.equal(answer.status, 302, await answer.text())
  const login = await enter(away, answer)
  assert.equal(login.status, 201, JSON.stringify(login.body))
  assert.equal(login.body.token.user.name, 'admin')
  assert.equal(login.body.token.user['OS-FEDERATION'].protocol.id, 'saml2')
  assert.equal((await post(spUrl, assertion.body)).status, 401, 'a replay')
  const bare = await home.call('POST /auth/OS-FEDERATION/saml2', { body })
  assert.match(bare.body, /^<\?xml [^>]*\?>\s*<samlp:Response /)
  const metadata = await home.call('GET /OS-FEDERATION/saml2/metadata')
  assert.match(metadata.body, /IDPSSODescriptor/)
})

test('metadata tells whom to ask, escaped, in the language that is said', async t => {
  const plain = await identityCloud(t)
  assert.doesNotMatch((await plain.call('GET /OS-FEDERATION/saml2/metadata')).body, /ContactPerson/)
  const contact = "idp_contact_type: support, idp_contact_company: 'A & B', idp_contact_email: help@a.example"
  const cloud = await identityCloud(t, `saml: { idp_organization_display_name: '<A>', idp_lang: de, ${contact} }`)
  const { body } = await cloud.call('GET /OS-FEDERATION/saml2/metadata')
  assert.match(body, /<md:OrganizationName xml:lang="de">Nubo</)
  assert.match(body, /<md:OrganizationDisplayName xml:lang="de">&lt;A(>|&gt;)</)
  assert.match(
    body,
    /<\/md:Organization><md:ContactPerson contactType="support"><md:Company>A &amp; B<\/md:Company><md:EmailAddress>help@a.example<\/md:EmailAddress><\/md:ContactPerson><\/md:EntityDescriptor>/,
  )
})

test('what is changed, wrapped, unsigned, old, for others, or has a DTD does not open anything', async t => {
  const { away, signer, spUrl, home } = await pair(t)
  const say = (change: object = {}, now = Date.now()) =>
    samlResponse(
      {
        issuer: 'home',
        recipient: spUrl,
        subject: 'ann',
        attributes: { openstack_user: ['ann'], openstack_roles: ['admin'] },
        life: 60,
        ...change,
      },
      signer,
      now,
    )
  assert.equal((await post(spUrl, say())).status, 302)
  const good = say()
  const assertion = /<saml:Assertion[\s\S]*<\/saml:Assertion>/.exec(good)![0]
  const unsigned = assertion.replace(/<ds:Signature[\s\S]*<\/ds:Signature>/, '').replaceAll('ann', 'root')
  const evil = unsigned.replace(/ID="[^"]*"/, 'ID="_evil"')
  const other = await signerOf(away.env)
  assert.notEqual(other.certificate, signer.certificate)
  const attacks: Record<string, string> = {
    changed: good.replaceAll('>ann<', '>root<'),
    unsigned: good.replace(assertion, unsigned),
    'wrapped before': good.replace(assertion, evil + assertion),
    'wrapped after': good.replace(assertion, assertion + evil),
    'wrapped inside': good.replace(assertion, evil.replace('</saml:Assertion>', `${assertion}</saml:Assertion>`)),
    'signature moved': good.replace(
      assertion,
      evil.replace('<saml:Subject>', `${/<ds:Signature[\s\S]*<\/ds:Signature>/.exec(good)![0]}<saml:Subject>`),
    ),
    old: say({}, Date.now() - 3600_000),
    'for others': say({ recipient: 'http://other/' }),
    'by others': samlResponse({ issuer: 'home', recipient: spUrl, subject: 'ann', attributes: {}, life: 60 }, other),
    commented: good.replace('>ann<', '>ann<!-- x --><'),
    entity: `<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>${good.replace('>ann<', '>&e;<')}`,
    nothing: 'hello',
  }
  for (const [name, xml] of Object.entries(attacks)) {
    const answer = await post(spUrl, xml)
    if (answer.status === 302) {
      // Taken all the same: then it must be for what was signed.
      const login = await enter(away, answer)
      assert.equal(login.body.token?.user.name, 'ann', name)
      assert.ok(['commented', 'wrapped after', 'wrapped before', 'entity'].includes(name), name)
    } else assert.ok([400, 401].includes(answer.status), `${name}: ${answer.status}`)
  }
  assert.ok(home.url)
})

test('a browser is sent to the provider, and its answer goes to the dashboard', async t => {
  const { away, signer } = await pair(t)
  const gone = await away.call(`GET /auth/OS-FEDERATION/websso/saml2?origin=${encodeURIComponent('http://horizon/')}`)
  assert.equal(gone.status, 302, JSON.stringify(gone.body))
  const relay = new URL(gone.headers.get('location')!).searchParams.get('RelayState')!
  const recipient = `${away.url}/auth/OS-FEDERATION/saml2/acs`
  const response = samlResponse(
    { issuer: 'home', recipient, subject: 'ann', attributes: { openstack_user: ['ann'], openstack_roles: ['admin'] }, life: 60 },
    signer,
  )
  const form = new URLSearchParams({ SAMLResponse: Buffer.from(response).toString('base64'), RelayState: relay })
  const page = await fetch(recipient, { method: 'POST', body: form })
  const html = await page.text()
  assert.equal(page.status, 200, html)
  const token = /name="token" id="token" value="([^"]+)"/.exec(html)![1]!
  assert.equal((await away.call('GET /auth/projects', { token })).status, 200)
})
