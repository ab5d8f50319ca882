/** Which URLs the service may fetch for a tenant. Names are those of glance-image-import.conf's import_filtering_opts. */
import { badRequest } from '#kit/fault.ts'
import type { Env } from '#kit/service.ts'
import { glanceSettings } from '../settings.ts'

const PORTS: Record<string, number> = { http: 80, https: 443 }

/** Throws badRequest for a URL that the filters do not let through. A list of allowed things, where there is one, wins over its list of forbidden ones. */
export function uriAllowed(env: Env, at: URL): void {
  const f = env.config.of(glanceSettings).import_filtering_opts
  const scheme = at.protocol.slice(0, -1)
  const host = at.hostname.replace(/^\[|\]$/g, '')
  const port = at.port === '' ? PORTS[scheme] : Number(at.port)
  const passes = <T>(value: T, allowed: readonly T[], forbidden: readonly T[]): boolean =>
    allowed.length > 0 ? allowed.includes(value) : !forbidden.includes(value)
  if (
    !(scheme in PORTS) ||
    !passes(scheme, f.allowed_schemes, f.disallowed_schemes) ||
    !passes(host, f.allowed_hosts, f.disallowed_hosts) ||
    !passes(port, f.allowed_ports, f.disallowed_ports)
  ) {
    throw badRequest(`URI for web-download does not pass filtering: ${at.href}`)
  }
}
