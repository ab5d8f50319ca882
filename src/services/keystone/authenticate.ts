import type { IncomingMessage } from 'node:http'
import type { Who } from '#kit/context.ts'
import { forbidden, unauthorized } from '#kit/fault.ts'
import type { Env } from '#kit/service.ts'
import { isSigned } from './auth/delegation.ts'
import { identityOf } from './identity.ts'
import { type AccessRule, type Token, tokenCheck } from './tokens/token.ts'

/** Where a service is, to know what an access rule of an application credential speaks of. */
export interface Placed {
  prefix: string
  type: string
}

const denied = () => unauthorized('The request you have made requires authentication.')

/**
 * Who a token is, for every request to any service: from memory when the token was seen before and nothing concerning it has
 * changed, else from the database. Throws unauthorized for a token that does not hold.
 *
 * With the request at hand it also reads `X-Service-Token` (a service acting for a user; a token that has expired meanwhile is
 * then still good, so that long operations end well) and keeps a token bound by access rules to what they allow.
 */
export function authenticate(
  env: Env,
  services: readonly Placed[] = [],
): (token: string, req?: IncomingMessage) => Who | Promise<Who> {
  const { tokens, settings } = identityOf(env)
  const checked = async (text: string, req: IncomingMessage | undefined): Promise<Who> => {
    const serviceText = req?.headers['x-service-token']
    const service = typeof serviceText === 'string' ? await tokenCheck(env, serviceText) : null
    const late = service?.who.roles.includes('service') ? settings.token.allow_expired_window : 0
    const token = await tokenCheck(env, text, late)
    if (!token) throw denied()
    if (isSigned(token.claims.methods)) signedCheck(req, services)
    if (token.appCred?.access_rules) accessCheck(token, token.appCred.access_rules, req, services)
    return service ? withService(token.who, service.who) : token.who
  }
  return (text, req) => {
    const known = tokens.get(text)
    const plain =
      known &&
      known.claims.expires > Date.now() / 1000 &&
      !known.appCred?.access_rules &&
      !isSigned(known.claims.methods) &&
      !req?.headers['x-service-token']
    return plain ? known.who : checked(text, req)
  }
}

/** The path below the prefix of the service it belongs to, and that service. */
function placeOf(req: IncomingMessage | undefined, services: readonly Placed[]) {
  const path = new URL(req?.url ?? '/', 'http://x').pathname
  const service = services.find(one => path === one.prefix || path.startsWith(`${one.prefix}/`))
  return { service, rest: service ? path.slice(service.prefix.length) || '/' : path }
}

/** A token for a signed EC2 or S3 request is for the service that was asked. Here it can only be looked at and given back. */
function signedCheck(req: IncomingMessage | undefined, services: readonly Placed[]): void {
  const { service, rest } = placeOf(req, services)
  if (service?.type !== 'identity' || rest === '/v3/auth/tokens') return
  throw forbidden('EC2 credential tokens cannot be used for authorization.')
}

function withService(who: Who, service: Who): Who {
  const { userId, userDomainId, projectId, projectDomainId, roles } = service
  return Object.freeze({ ...who, service: { userId, userDomainId, projectId, projectDomainId, roles } })
}

function accessCheck(token: Token, rules: AccessRule[], req: IncomingMessage | undefined, services: readonly Placed[]): void {
  if (!req) throw denied()
  const { service, rest } = placeOf(req, services)
  const allowed = rules.some(rule => rule.service === service?.type && rule.method === req.method && pathMatches(rule.path, rest))
  if (!allowed) throw unauthorized(`Access rules of application credential ${token.appCred!.id} do not allow this request.`)
}

/**
 * Whether a path fits the pattern of an access rule: `*` and `{name}` stand for what is between two slashes, `**` for anything.
 */
export function pathMatches(pattern: string, path: string): boolean {
  const parts = pattern.split(/(\*\*|\*|\{[^}]*\})/)
  const source = parts.map(part =>
    part === '**' ? '.*' : part === '*' || /^\{.*\}$/.test(part) ? '[^/]+' : part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'),
  )
  return new RegExp(`^${source.join('')}$`).test(path)
}
