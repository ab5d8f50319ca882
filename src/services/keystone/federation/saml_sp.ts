import { createHash, randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { decode, encode } from '@msgpack/msgpack'
import type { SAML } from '@node-saml/node-saml'
import { isDuplicate } from '#kit/db/index.ts'
import { badRequest, Fault, reason, unauthorized } from '#kit/fault.ts'
import { readBody } from '#kit/http/body.ts'
import { bytes, type Call, type Route, route } from '#kit/http/route.ts'
import type { Env } from '#kit/service.ts'
import { issue } from '../auth/authenticate.ts'
import { denied } from '../auth/locate.ts'
import { folderOf, identityOf } from '../identity.ts'
import { selfUrl } from '../noun.ts'
import { fernetOpen, fernetSeal } from '../tokens/fernet.ts'
import { handOver } from './handover.ts'
import { xmlAttribute, xmlText } from './saml_idp.ts'
import { assertionLogin } from './shadow.ts'

// Logins by SAML 2.0, from the side of who relies on it. An answer is taken only if the assertion itself is signed by the provider's
// configured certificate, is meant for us, is young, and was not seen before. What node-saml returns comes from the signed part
// alone, so an unsigned assertion wrapped around it is never read; documents with a DTD are refused before they are parsed.

const MAX_BODY = 512 * 1024
const SESSION_LIFE = 300

export type Attributes = Record<string, string>

interface Provider {
  identity_provider: string
  entry_point: string
  certificate: string
  entity_id?: string
  issuer?: string
}

const providerOf = (env: Env, idp: string): Provider | undefined =>
  identityOf(env).settings.federation.saml.find(one => one.identity_provider === idp)

/** Whether a provider is set up for SAML. */
export const isSamlProvider = (env: Env, idp: string): boolean => providerOf(env, idp) !== undefined

async function clientOf(call: Call, provider: Provider, recipient: string): Promise<SAML> {
  // Most clouds never need it, and it takes long to load.
  const { SAML, ValidateInResponseTo } = await import('@node-saml/node-saml')
  return new SAML({
    callbackUrl: recipient,
    entryPoint: provider.entry_point,
    issuer: provider.entity_id ?? selfUrl(call, ''),
    idpCert: readFileSync(folderOf(call.env, provider.certificate), 'utf8'),
    ...(provider.issuer !== undefined && { idpIssuer: provider.issuer }),
    audience: provider.entity_id ?? false,
    wantAssertionsSigned: true,
    wantAuthnResponseSigned: false,
    validateInResponseTo: ValidateInResponseTo.never,
    acceptedClockSkewMs: 60_000,
    disableRequestedAuthnContext: true,
  })
}

/** The attributes of a signed answer, under the names that mod_auth_mellon and Shibboleth give them. Throws unauthorized. */
async function attributesOf(
  call: Call,
  idp: string,
  recipient: string,
  xml: string,
): Promise<{ attributes: Attributes; inResponseTo?: string }> {
  const provider = providerOf(call.env, idp)
  if (!provider) throw denied()
  if (/<!DOCTYPE|<!ENTITY/i.test(xml)) throw badRequest('A SAML message cannot hold a DTD.')
  try {
    const { profile } = await (await clientOf(call, provider, recipient)).validatePostResponseAsync({
      SAMLResponse: Buffer.from(xml).toString('base64'),
    })
    if (!profile) throw new Error('no assertion')
    await once(call.env, profile.getAssertionXml?.() ?? xml)
    const attributes: Attributes = {
      MELLON_IDP: profile.issuer,
      'Shib-Identity-Provider': profile.issuer,
      MELLON_NAME_ID: profile.nameID,
      REMOTE_USER: profile.nameID,
    }
    for (const [name, value] of Object.entries((profile.attributes ?? {}) as Record<string, unknown>)) {
      const text = [value].flat().map(String).join(';')
      attributes[name] = text
      attributes[`MELLON_${name}`] = text
    }
    const inResponseTo = (profile as { inResponseTo?: unknown }).inResponseTo
    return { attributes, ...(typeof inResponseTo === 'string' && { inResponseTo }) }
  } catch (error) {
    if (error instanceof Fault) throw error
    throw unauthorized('The request you have made requires authentication.', {
      cause: new Error(`SAML answer refused: ${reason(error)}`),
    })
  }
}

/** Each assertion is good for one login, on whatever process. */
async function once(env: Env, assertion: string): Promise<void> {
  const id = createHash('sha256').update(assertion).digest('hex')
  try {
    await env.db.tx(tx => tx.insertInto('keystone.used_assertions').values({ id }).execute())
  } catch (error) {
    if (isDuplicate(error)) throw denied()
    throw error
  }
}

interface Away {
  idp: string
  protocol: string
  origin: string
}

/** Sends a browser to a SAML provider. */
export async function samlAway(call: Call, away: Away): Promise<undefined> {
  const provider = providerOf(call.env, away.idp)!
  const relay = fernetSeal(identityOf(call.env).receipts.keys(), Buffer.from(encode(away)), Math.floor(Date.now() / 1000))
  const url = await (await clientOf(call, provider, selfUrl(call, ACS))).getAuthorizeUrlAsync(relay, undefined, {})
  call.reply.status = 302
  call.reply.headers.Location = url
  return undefined
}

const ACS = '/auth/OS-FEDERATION/saml2/acs'

const consume = route({
  method: 'POST',
  path: ACS,
  policy: null,
  auth: 'none',
  raw: true,
  async handle(call) {
    const form = new URLSearchParams((await readBody(call.stream as never, MAX_BODY)).toString('utf8'))
    const opened = fernetOpen(identityOf(call.env).receipts.keys(), form.get('RelayState') ?? '')
    if (!opened || opened.issued + SESSION_LIFE < Date.now() / 1000) throw denied()
    const away = decode(opened.plain) as Away
    const xml = Buffer.from(form.get('SAMLResponse') ?? '', 'base64').toString('utf8')
    const { attributes } = await attributesOf(call, away.idp, selfUrl(call, ACS), xml)
    const { id } = await issue(call.env, await assertionLogin(call.env, away.idp, away.protocol, attributes), { unscoped: true })
    call.reply.headers['Cache-Control'] = 'no-store'
    return bytes(handOver(away.origin, id), { type: 'text/html' })
  },
})

// Enhanced clients and other Keystones bring the answer themselves (ECP, K2K), get a short session by cookie, and are sent on to where
// tokens are given.

const ECP = '/auth/OS-FEDERATION/saml2/ecp/:identity_provider_id/:protocol_id'
const COOKIE = 'nubo_saml'

const ecpUrl = (call: Call, idp: string, protocol: string): string =>
  selfUrl(call, `/auth/OS-FEDERATION/saml2/ecp/${encodeURIComponent(idp)}/${encodeURIComponent(protocol)}`)

export const PAOS = 'application/vnd.paos+xml'
const ECP_PROFILE = 'urn:oasis:names:tc:SAML:2.0:profiles:SSO:ecp'

/**
 * For an enhanced client, which says so by its headers: the request that it is to carry to the provider (SAML profiles 2.0, 4.2), and where
 * to bring the answer. Null for other clients, and for providers that do not speak SAML.
 */
export function paosRequest(call: Call, idp: string, protocol: string): string | null {
  const provider = providerOf(call.env, idp)
  const enhancedClient = String(call.headers.paos ?? '').includes(ECP_PROFILE) && String(call.headers.accept ?? '').includes(PAOS)
  if (!provider || !enhancedClient) return null
  const consumer = xmlAttribute(ecpUrl(call, idp, protocol))
  const issuer = `<saml:Issuer xmlns:saml="urn:oasis:names:tc:SAML:2.0:assertion">${xmlText(provider.entity_id ?? selfUrl(call, ''))}</saml:Issuer>`
  const next = 'S:actor="http://schemas.xmlsoap.org/soap/actor/next" S:mustUnderstand="1"'
  const id = `_${randomBytes(16).toString('hex')}`
  return (
    `<S:Envelope xmlns:S="http://schemas.xmlsoap.org/soap/envelope/"><S:Header>` +
    `<paos:Request xmlns:paos="urn:liberty:paos:2003-08" ${next} responseConsumerURL="${consumer}" service="${ECP_PROFILE}"></paos:Request>` +
    `<ecp:Request xmlns:ecp="${ECP_PROFILE}" ${next} IsPassive="0">${issuer}</ecp:Request>` +
    `<ecp:RelayState xmlns:ecp="${ECP_PROFILE}" ${next}>${randomBytes(16).toString('hex')}</ecp:RelayState></S:Header>` +
    `<S:Body><samlp:AuthnRequest xmlns:samlp="urn:oasis:names:tc:SAML:2.0:protocol" ID="${id}" Version="2.0" ` +
    `IssueInstant="${new Date().toISOString()}" AssertionConsumerServiceURL="${consumer}" ` +
    `ProtocolBinding="urn:oasis:names:tc:SAML:2.0:bindings:PAOS">${issuer}</samlp:AuthnRequest></S:Body></S:Envelope>`
  )
}

const enhanced = route({
  method: 'POST',
  path: ECP,
  policy: null,
  auth: 'none',
  raw: true,
  async handle(call) {
    const { identity_provider_id: idp, protocol_id: protocol } = call.params
    const soap = (await readBody(call.stream as never, MAX_BODY)).toString('utf8')
    const response = /<((?:\w+:)?Response)[\s>][\s\S]*<\/\1>/.exec(
      soap.slice(Math.max(0, soap.search(/<(?:\w+:)?Body[\s>]/))),
    )?.[0]
    if (response === undefined) throw badRequest('Expecting to find a SAML response in the request.')
    const recipient = ecpUrl(call, idp!, protocol!)
    if (!response.includes(`Recipient="${recipient}"`)) throw denied()
    const { attributes } = await attributesOf(call, idp!, recipient, response)
    const session = { idp, protocol, attributes, nonce: randomBytes(8).toString('hex') }
    const sealed = fernetSeal(identityOf(call.env).receipts.keys(), Buffer.from(encode(session)), Math.floor(Date.now() / 1000))
    const secure = recipient.startsWith('https') ? '; Secure' : ''
    call.reply.status = 302
    call.reply.headers['Set-Cookie'] = `${COOKIE}=${sealed}; HttpOnly; SameSite=Lax; Path=/; Max-Age=${SESSION_LIFE}${secure}`
    call.reply.headers.Location = selfUrl(call, `/OS-FEDERATION/identity_providers/${idp}/protocols/${protocol}/auth`)
    return undefined
  },
})

/** The attributes of the session that the ECP route gave, if the request has one for this provider and protocol. */
export function samlSession(call: Call, idp: string, protocol: string): Attributes | null {
  const sealed = new RegExp(`(?:^|;\\s*)${COOKIE}=([\\w=-]+)`).exec(call.headers.cookie ?? '')?.[1]
  const opened = sealed === undefined ? null : fernetOpen(identityOf(call.env).receipts.keys(), sealed)
  if (!opened || opened.issued + SESSION_LIFE < Date.now() / 1000) return null
  const session = decode(opened.plain) as { idp: string; protocol: string; attributes: Attributes }
  return session.idp === idp && session.protocol === protocol ? session.attributes : null
}

export const samlSpRoutes: Route[] = [consume, enhanced]
