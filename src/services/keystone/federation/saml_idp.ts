import { createHash, createPrivateKey, createSign, randomUUID, webcrypto, X509Certificate } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { forbidden, notFound } from '#kit/fault.ts'
import { bytes, type Call, type Route, route } from '#kit/http/route.ts'
import { Array as ArraySchema, Object as ObjectSchema, String as StringSchema } from '#kit/http/schema.ts'
import type { Env } from '#kit/service.ts'
import { denied } from '../auth/locate.ts'
import { folderOf, identityOf, type KeystoneSettings } from '../identity.ts'
import { type Token, tokenCheck } from '../tokens/token.ts'

// Keystone to Keystone: we vouch for our users to a service provider, by a signed SAML 2.0 assertion. The XML is written in exclusive
// canonical form from the start (namespaces where they are first used, attributes in order, no empty-element tags), so that the
// text itself is what is hashed and signed.

const SAML = 'urn:oasis:names:tc:SAML:2.0:assertion'
const SAMLP = 'urn:oasis:names:tc:SAML:2.0:protocol'
const DS = 'http://www.w3.org/2000/09/xmldsig#'
const C14N = 'http://www.w3.org/2001/10/xml-exc-c14n#'
const RSA_SHA256 = 'http://www.w3.org/2001/04/xmldsig-more#rsa-sha256'
const SHA256 = 'http://www.w3.org/2001/04/xmlenc#sha256'

/** Text between tags, in canonical form. */
export const xmlText = (value: string): string =>
  value.replace(/[&<>\r]/g, char => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '\r': '&#xD;' })[char]!)
/** The value of an attribute, in canonical form. */
export const xmlAttribute = (value: string): string =>
  value.replace(
    /[&<"\t\n\r]/g,
    char => ({ '&': '&amp;', '<': '&lt;', '"': '&quot;', '\t': '&#x9;', '\n': '&#xA;', '\r': '&#xD;' })[char]!,
  )

/** What an assertion says. */
export interface Assertion {
  issuer: string
  recipient: string
  subject: string
  attributes: Record<string, string[]>
  /** seconds */
  life: number
}

/** The key and the certificate that assertions are signed with (PEM). */
export interface Signer {
  key: string
  certificate: string
}

const instant = (at: number): string => new Date(at).toISOString()

function assertionXml(a: Assertion, id: string, now: number, signature: string): string {
  const until = instant(now + a.life * 1000)
  const attributes = Object.entries(a.attributes)
    .map(([name, values]) => {
      const list = values.map(value => `<saml:AttributeValue>${xmlText(value)}</saml:AttributeValue>`).join('')
      return `<saml:Attribute Name="${xmlAttribute(name)}" NameFormat="urn:oasis:names:tc:SAML:2.0:attrname-format:uri">${list}</saml:Attribute>`
    })
    .join('')
  return (
    `<saml:Assertion xmlns:saml="${SAML}" ID="${id}" IssueInstant="${instant(now)}" Version="2.0">` +
    `<saml:Issuer Format="urn:oasis:names:tc:SAML:2.0:nameid-format:entity">${xmlText(a.issuer)}</saml:Issuer>${signature}` +
    `<saml:Subject><saml:NameID>${xmlText(a.subject)}</saml:NameID><saml:SubjectConfirmation Method="urn:oasis:names:tc:SAML:2.0:cm:bearer">` +
    `<saml:SubjectConfirmationData NotOnOrAfter="${until}" Recipient="${xmlAttribute(a.recipient)}"></saml:SubjectConfirmationData>` +
    `</saml:SubjectConfirmation></saml:Subject>` +
    `<saml:Conditions NotBefore="${instant(now - 5000)}" NotOnOrAfter="${until}"></saml:Conditions>` +
    `<saml:AuthnStatement AuthnInstant="${instant(now)}" SessionIndex="${id}s" SessionNotOnOrAfter="${until}">` +
    `<saml:AuthnContext><saml:AuthnContextClassRef>urn:oasis:names:tc:SAML:2.0:ac:classes:Password</saml:AuthnContextClassRef>` +
    `<saml:AuthenticatingAuthority>${xmlText(a.issuer)}</saml:AuthenticatingAuthority></saml:AuthnContext></saml:AuthnStatement>` +
    `<saml:AttributeStatement>${attributes}</saml:AttributeStatement></saml:Assertion>`
  )
}

/** The certificate's bytes in base64, without the PEM lines. */
const certificateBody = (pem: string): string => new X509Certificate(pem).raw.toString('base64')

function signatureXml(id: string, digest: string, signer: Signer): string {
  const info = (namespace: string) =>
    `<ds:SignedInfo${namespace}><ds:CanonicalizationMethod Algorithm="${C14N}"></ds:CanonicalizationMethod>` +
    `<ds:SignatureMethod Algorithm="${RSA_SHA256}"></ds:SignatureMethod><ds:Reference URI="#${id}"><ds:Transforms>` +
    `<ds:Transform Algorithm="${DS}enveloped-signature"></ds:Transform><ds:Transform Algorithm="${C14N}"></ds:Transform>` +
    `</ds:Transforms><ds:DigestMethod Algorithm="${SHA256}"></ds:DigestMethod><ds:DigestValue>${digest}</ds:DigestValue>` +
    `</ds:Reference></ds:SignedInfo>`
  const value = createSign('sha256')
    .update(info(` xmlns:ds="${DS}"`))
    .sign(createPrivateKey(signer.key), 'base64')
  return (
    `<ds:Signature xmlns:ds="${DS}">${info('')}<ds:SignatureValue>${value}</ds:SignatureValue>` +
    `<ds:KeyInfo><ds:X509Data><ds:X509Certificate>${certificateBody(signer.certificate)}</ds:X509Certificate></ds:X509Data></ds:KeyInfo></ds:Signature>`
  )
}

/** A SAML response with a signed assertion. */
export function samlResponse(assertion: Assertion, signer: Signer, now = Date.now()): string {
  const id = `_${randomUUID().replaceAll('-', '')}`
  const digest = createHash('sha256')
    .update(assertionXml(assertion, id, now, ''))
    .digest('base64')
  const signed = assertionXml(assertion, id, now, signatureXml(id, digest, signer))
  return (
    `<samlp:Response xmlns:samlp="${SAMLP}" Destination="${xmlAttribute(assertion.recipient)}" ID="_${randomUUID().replaceAll('-', '')}" IssueInstant="${instant(now)}" Version="2.0">` +
    `<saml:Issuer xmlns:saml="${SAML}" Format="urn:oasis:names:tc:SAML:2.0:nameid-format:entity">${xmlText(assertion.issuer)}</saml:Issuer>` +
    `<samlp:Status><samlp:StatusCode Value="urn:oasis:names:tc:SAML:2.0:status:Success"></samlp:StatusCode></samlp:Status>${signed}</samlp:Response>`
  )
}

/** The response in the SOAP envelope of the ECP profile. */
export const ecpEnvelope = (response: string, relayStatePrefix: string): string =>
  `<soap11:Envelope xmlns:soap11="http://schemas.xmlsoap.org/soap/envelope/"><soap11:Header>` +
  `<ecp:RelayState xmlns:ecp="urn:oasis:names:tc:SAML:2.0:profiles:SSO:ecp" soap11:actor="http://schemas.xmlsoap.org/soap/actor/next" soap11:mustUnderstand="1">` +
  `${xmlText(relayStatePrefix)}${randomUUID().replaceAll('-', '')}</ecp:RelayState></soap11:Header><soap11:Body>${response}</soap11:Body></soap11:Envelope>`

const signers = new WeakMap<Env, Promise<Signer>>()

/** Our key and certificate: the configured files; made at first use where they are missing. */
export function signerOf(env: Env): Promise<Signer> {
  let signer = signers.get(env)
  if (!signer) {
    signer = signerMake(env)
    signers.set(env, signer)
  }
  return signer
}

async function signerMake(env: Env): Promise<Signer> {
  const { saml } = identityOf(env).settings
  const [keyFile, certificateFile] = [folderOf(env, saml.keyfile), folderOf(env, saml.certfile)]
  if (!existsSync(keyFile)) {
    await import('reflect-metadata') // what @peculiar/x509 needs before it is loaded
    const { X509CertificateGenerator } = await import('@peculiar/x509')
    const algorithm = {
      name: 'RSASSA-PKCS1-v1_5',
      hash: 'SHA-256',
      publicExponent: new Uint8Array([1, 0, 1]),
      modulusLength: 2048,
    }
    const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify'])
    const notAfter = new Date(Date.now() + 10 * 365 * 86400_000)
    const made = await X509CertificateGenerator.createSelfSigned({
      name: 'CN=Nubo identity',
      notBefore: new Date(Date.now() - 3600_000),
      notAfter,
      keys: keys as never,
      signingAlgorithm: algorithm,
    })
    const der = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey))
    mkdirSync(dirname(keyFile), { recursive: true, mode: 0o700 })
    mkdirSync(dirname(certificateFile), { recursive: true, mode: 0o700 })
    writeFileSync(certificateFile, made.toString('pem'))
    writeFileSync(
      keyFile,
      createPrivateKey({ key: der, format: 'der', type: 'pkcs8' }).export({ type: 'pkcs8', format: 'pem' }),
      { mode: 0o600 },
    )
  }
  return { key: readFileSync(keyFile, 'utf8'), certificate: readFileSync(certificateFile, 'utf8') }
}

const entityId = (call: Call): string => identityOf(call.env).settings.saml.idp_entity_id ?? `${v3(call)}/OS-FEDERATION/saml2/idp`
const v3 = (call: Call): string =>
  identityOf(call.env).settings.public_endpoint?.replace(/\/(v3\/?)?$/, '/v3') ?? call.self('', '/v3')

/** The groups of a user, as an assertion names them. */
async function groupsOf(call: Call, token: Token): Promise<string[]> {
  const rows = await call.db
    .selectFrom('keystone.memberships as m')
    .innerJoin('keystone.groups as g', 'g.id', 'm.group_id')
    .innerJoin('keystone.projects as d', 'd.id', 'g.domain_id')
    .select(['g.name', 'd.name as domain'])
    .where('m.user_id', '=', token.claims.userId)
    .orderBy('g.name')
    .execute()
  return rows.map(row => `JSON:${JSON.stringify({ name: row.name, domain: { name: row.domain } })}`)
}

const Body = ObjectSchema({
  auth: ObjectSchema({
    identity: ObjectSchema({ methods: ArraySchema(StringSchema()), token: ObjectSchema({ id: StringSchema() }) }),
    scope: ObjectSchema({ service_provider: ObjectSchema({ id: StringSchema() }) }),
  }),
})

async function assertionFor(
  call: Call,
  body: { auth: { identity: { token: { id: string } }; scope: { service_provider: { id: string } } } },
) {
  const id = body.auth.scope.service_provider.id
  const sp = await call.db.selectFrom('keystone.service_providers').selectAll().where('id', '=', id).executeTakeFirst()
  if (!sp) throw notFound(`Could not find Service Provider: ${id}.`)
  if (!sp.enabled) throw forbidden(`Service Provider ${id} is disabled`)
  const token = await tokenCheck(call.env, body.auth.identity.token.id)
  if (!token) throw denied()
  const { user, project, roles } = token.facts
  if (!project?.domain || token.claims.projectId === undefined) {
    throw forbidden(
      'You are not authorized to perform the requested action: Use a project scoped token when attempting to create a SAML assertion.',
    )
  }
  const groups = await groupsOf(call, token)
  const response = samlResponse(
    {
      issuer: entityId(call),
      recipient: sp.sp_url,
      subject: user!.name,
      attributes: {
        openstack_user: [user!.name],
        openstack_roles: roles.map(role => role.name),
        openstack_project: [project.name],
        openstack_project_domain: [project.domain.name],
        openstack_user_domain: [user!.domain.name],
        ...(groups.length > 0 && { openstack_groups: groups }),
      },
      life: identityOf(call.env).settings.saml.assertion_expiration_time,
    },
    await signerOf(call.env),
  )
  call.reply.headers['X-sp-url'] = sp.sp_url
  call.reply.headers['X-auth-url'] = sp.auth_url
  return { response, sp }
}

const xml = (body: string) => bytes(`<?xml version="1.0" encoding="UTF-8"?>\n${body}`, { type: 'text/xml' })

async function metadata(call: Call): Promise<string> {
  const { saml } = identityOf(call.env).settings
  const { certificate } = await signerOf(call.env)
  const named = (name: string, text: string) =>
    `<md:${name} xml:lang="${xmlAttribute(saml.idp_lang)}">${xmlText(text)}</md:${name}>`
  const location = saml.idp_sso_endpoint ?? `${v3(call)}/OS-FEDERATION/saml2/sso`
  return (
    `<md:EntityDescriptor xmlns:md="urn:oasis:names:tc:SAML:2.0:metadata" entityID="${xmlAttribute(entityId(call))}">` +
    `<md:IDPSSODescriptor protocolSupportEnumeration="${SAMLP}"><md:KeyDescriptor use="signing"><ds:KeyInfo xmlns:ds="${DS}"><ds:X509Data>` +
    `<ds:X509Certificate>${certificateBody(certificate)}</ds:X509Certificate></ds:X509Data></ds:KeyInfo></md:KeyDescriptor>` +
    `<md:SingleSignOnService Binding="urn:oasis:names:tc:SAML:2.0:bindings:URI" Location="${xmlAttribute(location)}"></md:SingleSignOnService></md:IDPSSODescriptor>` +
    `<md:Organization>${named('OrganizationName', saml.idp_organization_name)}` +
    named('OrganizationDisplayName', saml.idp_organization_display_name ?? saml.idp_organization_name) +
    `${named('OrganizationURL', saml.idp_organization_url)}</md:Organization>${contact(saml)}</md:EntityDescriptor>`
  )
}

/** Whom other clouds may ask; empty where nobody is named. */
function contact(saml: KeystoneSettings['saml']): string {
  const parts = [
    ['Company', saml.idp_contact_company],
    ['GivenName', saml.idp_contact_name],
    ['SurName', saml.idp_contact_surname],
    ['EmailAddress', saml.idp_contact_email],
    ['TelephoneNumber', saml.idp_contact_telephone],
  ].flatMap(([name, text]) => (text === undefined ? [] : [`<md:${name}>${xmlText(text)}</md:${name}>`]))
  if (parts.length === 0) return ''
  return `<md:ContactPerson contactType="${saml.idp_contact_type}">${parts.join('')}</md:ContactPerson>`
}

export const samlIdpRoutes: Route[] = [
  route({
    method: 'GET',
    path: '/OS-FEDERATION/saml2/metadata',
    policy: null,
    auth: 'none',
    handle: async call => xml(await metadata(call)),
  }),
  route({
    method: 'POST',
    path: '/auth/OS-FEDERATION/saml2',
    policy: null,
    auth: 'none',
    body: Body,
    handle: async call => xml((await assertionFor(call, call.body)).response),
  }),
  route({
    method: 'POST',
    path: '/auth/OS-FEDERATION/saml2/ecp',
    policy: null,
    auth: 'none',
    body: Body,
    async handle(call) {
      const { response, sp } = await assertionFor(call, call.body)
      return xml(ecpEnvelope(response, sp.relay_state_prefix))
    },
  }),
]
