/** Names in the `Host` header in place of the path: `container.account.example.com`, and own domains that point there by CNAME. */
import { resolveCname } from 'node:dns/promises'
import { isIP } from 'node:net'
import { quote, type Req, reply } from '../../http/message.ts'
import type { Step } from '../site.ts'

const hostOf = (req: Req): { name: string; port: string } => {
  const match = /^(\[[^\]]*\]|[^:]*)(:\d+)?$/.exec(req.headers.host ?? '')
  return { name: (match?.[1] ?? '').toLowerCase(), port: match?.[2] ?? '' }
}

/** Follows a CNAME of the host once to the storage domain. Answers are kept for a minute. */
export const cnameLookup: Step = (next, site) => {
  const known = new Map<string, { name: string | null; at: number }>()
  const domain = `.${site.settings.storageDomain}`
  return async req => {
    const { name, port } = hostOf(req)
    if (!name || isIP(name.replace(/[[\]]/g, '')) || name === domain.slice(1) || name.endsWith(domain)) return next(req)
    let found = known.get(name)
    if (!found || Date.now() - found.at > 60_000) {
      found = { name: await lookup(name, domain), at: Date.now() }
      known.set(name, found)
      if (known.size > 10_000) known.delete(known.keys().next().value!)
    }
    if (!found.name)
      return reply(400, { 'content-type': 'text/html; charset=UTF-8' }, `CNAME lookup failed to resolve to a valid domain`)
    req.headers.host = `${found.name}${port}`
    return next(req)
  }
}

async function lookup(name: string, domain: string): Promise<string | null> {
  try {
    const [target] = await resolveCname(name)
    return target?.toLowerCase().endsWith(domain) ? target.toLowerCase() : null
  } catch {
    return null // no such record is an answer, and so is a name server that is away
  }
}

/** `container.account.domain/object` and `account.domain/container/object` become paths. */
export const domainRemap: Step = (next, site) => {
  const domain = `.${site.settings.storageDomain}`
  const prefix = site.settings.prefixes[0]
  return req => {
    const { name } = hostOf(req)
    if (!name.endsWith(domain)) return next(req)
    const parts = name.slice(0, -domain.length).split('.')
    if (parts.length > 2 || parts.some(part => !part))
      return Promise.resolve(reply(400, { 'content-type': 'text/plain' }, 'Bad domain in host header'))
    const label = parts.pop()!
    // host names have no upper case and no underscore: auth-x and AUTH_x are the same account
    const account = label.startsWith(prefix.toLowerCase().replace('_', '-'))
      ? `${prefix}${label.slice(prefix.length)}`
      : label.startsWith(prefix.toLowerCase())
        ? `${prefix}${label.slice(prefix.length)}`
        : `${prefix}${label}`
    const container = parts.pop()
    const rest = req.path.replace(/^\/v1(?=\/|$)/, '').replace(/^\/+/, '')
    req.path = `/v1/${[account, container, rest].filter(part => part !== undefined).join('/')}`.replace(/\/$/, rest ? '/' : '')
    req.rawPath = quote(req.path)
    return next(req)
  }
}
