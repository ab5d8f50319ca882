/**
 * Users of the store's own, for running without Keystone: `GET /auth/v1.0` with a user and key gives a token. A token is signed and says
 * whom it stands for, so every proxy with the same users accepts it and nothing has to be kept.
 */
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import { type App, ok, type Req, type Res, refuse, reply, text, unquote, type Who } from '../http/message.ts'
import { accountInfo } from '../proxy/info.ts'
import { pathOf, type Site, type Step, type TempUser } from '../proxy/site.ts'
import { parseAcl, referrerAllowed } from './acl.ts'

const secretOf = (users: TempUser[]): string => users.map(user => `${user.account}:${user.user}:${user.key}`).join('\n')

function issue(site: Site, user: TempUser, life: number): { token: string; expires: number } {
  const expires = Math.floor(Date.now() / 1000) + life
  const claim = Buffer.from(JSON.stringify([user.account, user.user, expires, randomBytes(6).toString('hex')])).toString(
    'base64url',
  )
  return { token: `AUTH_tk${claim}.${mac(site, claim)}`, expires }
}

const mac = (site: Site, claim: string): string =>
  createHmac(
    'sha256',
    `${site.cluster.secrets.prefix}\n${site.cluster.secrets.suffix}\n${secretOf(site.settings.tempauth!.users)}`,
  )
    .update(claim)
    .digest('base64url')

const MOST_TOKENS = 10_000
const checked = new WeakMap<Site, Map<string, { user: TempUser; expires: number }>>()

/** The user of a token; null when it is forged, stale or of a user that is gone. A good one is remembered, as users do not change. */
function userOf(site: Site, token: string): TempUser | null {
  const tokens = checked.get(site) ?? new Map<string, { user: TempUser; expires: number }>()
  checked.set(site, tokens)
  const known = tokens.get(token) ?? check(site, token)
  if (!known || known.expires < Date.now() / 1000) return null
  tokens.set(token, known)
  if (tokens.size > MOST_TOKENS) tokens.delete(tokens.keys().next().value!)
  return known.user
}

function check(site: Site, token: string): { user: TempUser; expires: number } | null {
  const match = /^AUTH_tk([\w-]+)\.([\w-]+)$/.exec(token)
  if (!match) return null
  const own = Buffer.from(mac(site, match[1]))
  const given = Buffer.from(match[2])
  if (own.length !== given.length || !timingSafeEqual(own, given)) return null
  const [account, name, expires] = JSON.parse(Buffer.from(match[1], 'base64url').toString()) as [string, string, number]
  const user = site.settings.tempauth!.users.find(one => one.account === account && one.user === name)
  return user ? { user, expires } : null
}

/** What the user is to access lists. An admin of the account owns it. */
function whoIs(site: Site, user: TempUser): Who {
  const groups = [user.account, `${user.account}:${user.user}`, ...user.groups.filter(group => group !== '.admin')]
  if (user.groups.includes('.admin')) groups.push(...site.settings.prefixes.map(prefix => `${prefix}${user.account}`))
  return {
    userId: `${user.account}:${user.user}`,
    userName: `${user.account}:${user.user}`,
    projectId: user.account,
    projectName: user.account,
    roles: user.groups,
    groups,
  }
}

/** The step of the pipeline. */
export const tempauth: Step =
  (next, site): App =>
  async req => {
    if (/^\/auth(\/|$)/.test(req.path)) return login(site, req)
    if (req.env.authorizeOverride) return next(req)
    const token = req.headers['x-auth-token'] ?? req.headers['x-storage-token']
    if (token?.startsWith('AUTH_tk')) {
      const user = userOf(site, token)
      if (!user) return unauthorized(req)
      req.env.who = whoIs(site, user)
    } else if (req.env.s3) req.env.who = await s3User(site, req)
    req.env.authorize ??= (asked, acl) => authorize(site, asked, acl)
    return next(req)
  }

async function s3User(site: Site, req: Req): Promise<Who | null> {
  const user = site.settings.tempauth!.users.find(known => `${known.account}:${known.user}` === req.env.s3!.accessKey)
  return user ? whoIs(site, user) : null
}

const unauthorized = (req: Req): Res =>
  refuse(401, undefined, { 'www-authenticate': `Swift realm="${pathOf(req)?.account ?? 'unknown'}"` })

function login(site: Site, req: Req): Res {
  if (req.method !== 'GET') return refuse(405)
  const [, , version, account, kind] = req.path.split('/')
  if (version === undefined || !['v1', 'v1.0', 'auth'].includes(version)) return refuse(404)
  let name = req.headers['x-storage-user'] ?? req.headers['x-auth-user']
  const key = req.headers['x-storage-pass'] ?? req.headers['x-auth-key']
  if (account && kind === 'auth' && name && !name.includes(':')) name = `${account}:${name}`
  if (!name?.includes(':') || !key) return unauthorized(req)
  const plain = unquote(name) ?? name
  const user = site.settings.tempauth!.users.find(known => `${known.account}:${known.user}` === plain)
  const given = Buffer.from(text(key))
  const wanted = Buffer.from(user?.key ?? '')
  if (!user || given.length !== wanted.length || !timingSafeEqual(given, wanted)) return unauthorized(req)
  const { token, expires } = issue(site, user, site.settings.tempauth!.tokenLife)
  const host = req.headers.host ?? 'localhost'
  const url = `${req.env.scheme}://${host}${req.env.mount}/v1/${site.settings.prefixes[0]}${encodeURIComponent(user.account)}`
  return reply(200, {
    'x-storage-url': url,
    'x-auth-token': token,
    'x-storage-token': token,
    'x-auth-token-expires': String(Math.max(0, expires - Math.floor(Date.now() / 1000))),
    'content-type': 'text/html; charset=UTF-8',
  })
}

export interface AccountAcl {
  admin: string[]
  'read-write': string[]
  'read-only': string[]
}

/** An `X-Account-Access-Control` value; null or a sentence when it is not one. */
export function parseAccountAcl(value: string): AccountAcl | string {
  let parsed: unknown
  try {
    parsed = value.trim() === '' ? {} : JSON.parse(value)
  } catch {
    return `Syntax error in input (${value})`
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) return `Syntax error in input (${value})`
  const acl: AccountAcl = { admin: [], 'read-write': [], 'read-only': [] }
  for (const [key, list] of Object.entries(parsed)) {
    if (key !== 'admin' && key !== 'read-write' && key !== 'read-only') return `Key "${key}" not recognized`
    if (!Array.isArray(list)) return `Value for key "${key}" must be a list`
    if (list.some(grantee => typeof grantee !== 'string')) return `Elements of "${key}" list must be strings`
    acl[key] = list as string[]
  }
  return acl
}

const ACL_HEADER = 'x-account-sysmeta-core-access-control'

async function authorize(site: Site, req: Req, acl: string | null): Promise<Res | null> {
  const path = pathOf(req)
  if (!path) return refuse(404)
  const groups = req.env.who?.groups ?? []
  const denied = req.env.who ? refuse(403) : unauthorized(req)
  if (!site.settings.prefixes.some(prefix => path.account.startsWith(prefix))) return denied
  const given = req.headers['x-account-access-control']
  if (given !== undefined) {
    const parsed = parseAccountAcl(text(given))
    if (typeof parsed === 'string') return refuse(400, `X-Account-Access-Control invalid: ${parsed}\n\nInput: ${given}\n`)
  }
  const isReseller = groups.includes('.reseller_admin') && !path.account.startsWith('.')
  const reading = req.method === 'GET' || req.method === 'HEAD'
  if (isReseller) {
    req.env.owner = true
    req.env.resellerRequest = true
    return takeAcl(req)
  }
  if (groups.includes('.reseller_reader') && reading) return null
  if (groups.includes(path.account) && ((req.method !== 'DELETE' && req.method !== 'PUT') || path.container !== null)) {
    req.env.owner = true
    return takeAcl(req)
  }
  if (req.method === 'OPTIONS') return null
  const list = parseAcl(acl)
  if (referrerAllowed(req.headers.referer, list.referrers) && (path.object !== null || list.groups.includes('.rlistings')))
    return null
  if (groups.some(group => list.groups.includes(group))) return null
  const stored = (await accountInfo(site.cluster, req.env, path.account)).headers[ACL_HEADER]
  const accountAcl = stored ? parseAccountAcl(text(stored)) : null
  if (accountAcl && typeof accountAcl !== 'string') {
    if (groups.some(group => accountAcl.admin.includes(group))) {
      req.env.owner = true
      return takeAcl(req)
    }
    if (groups.some(group => accountAcl['read-write'].includes(group)) && (path.container !== null || reading)) return null
    if (groups.some(group => accountAcl['read-only'].includes(group)) && reading) return null
  }
  return denied
}

/** The owner's new account list goes into the store's own metadata. */
function takeAcl(req: Req): null {
  const given = req.headers['x-account-access-control']
  if (given !== undefined && pathOf(req)?.container === null) {
    const parsed = parseAccountAcl(text(given))
    const isEmpty = typeof parsed !== 'string' && Object.values(parsed).every(list => list.length === 0)
    req.headers[ACL_HEADER] = isEmpty ? '' : given
    delete req.headers['x-account-access-control']
  }
  return null
}

/** Shows an account's list to its owner, where it is kept out of sight otherwise. */
export const accountAcl: Step = next => async req => {
  const res = await next(req)
  const stored = res.headers[ACL_HEADER]
  if (stored && ok(res.status) && req.env.owner) res.headers['x-account-access-control'] = stored
  return res
}
