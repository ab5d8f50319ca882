/**
 * A route of another service, called within this process and as the same caller: for old APIs that only pass on what another service does.
 * The other's own version, policy and schema hold, and its Faults come out as they are.
 */
import type { Service } from '../service.ts'
import { choose, find, parseQuery, routerFor } from './app.ts'
import type { Call, Method } from './route.ts'

/** What the route answers. `path` is below the service's prefix, its query with it: `/v2.0/networks?name=a`; `type` is what the body claims to be. */
export async function callWithin(
  call: Call,
  service: Service,
  method: Method,
  path: string,
  body?: unknown,
  type = 'application/json',
): Promise<unknown> {
  const [pathname, query = ''] = path.split('?', 2) as [string, string?]
  const { entry, params } = find(routerFor(service), method, pathname)
  const version = service.microversions?.min ?? 0
  const alive = entry.routes.filter(({ route }) => (route.since ?? 0) <= version)
  const { route, ...checks } = choose(alive, body)
  const ctx = call.ctx.as(service.name)
  const search = new URLSearchParams(query)
  const inner: { -readonly [K in keyof Call]: Call[K] } = {
    ctx,
    env: call.env,
    db: call.db,
    params,
    query: parseQuery(search, checks.query, version),
    body,
    target: undefined,
    version,
    headers: { 'content-type': type },
    method,
    url: path,
    self: (to, mount = entry.mount) => new URL(service.prefix + mount + to, call.self('/', '')).href,
    search,
    stream: call.stream,
    signal: call.signal,
    reply: { headers: {} },
  }
  if (route.target) inner.target = await route.target(inner)
  if (route.policy !== null) {
    const target = route.policyTarget?.(inner) ?? (inner.target as Record<string, unknown> | undefined)
    ctx.must(route.policy, target ?? { project_id: ctx.projectId, user_id: ctx.userId })
  }
  checks.body?.(body ?? {}, version)
  return route.handle(inner)
}
