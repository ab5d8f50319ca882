import { createHash } from 'node:crypto'
import type { Query } from '#kit/db/index.ts'

// The catalog that a token carries: enabled services, each with its enabled endpoints, their URLs completed with the ids of the
// scope. Rows are few and change rarely, so a process holds them all and makes each caller's catalog from memory.

interface Endpoint {
  id: string
  interface: string
  region_id: string | null
  region: string | null
  url: string
  name?: string
}

interface Service {
  id: string
  type: string
  name: string
  endpoints: (Endpoint & { service_id: string })[]
}

export interface Catalog {
  services: Service[]
  /** What projects see that have endpoints associated, by themselves or in groups: those endpoints. */
  byProject: Map<string, Set<string>>
  /** Whether all others see everything. */
  wholeElse: boolean
  /** clouds that take our users */
  providers: { id: string; auth_url: string; sp_url: string }[]
}

/** An entry of the catalog on the wire. */
export interface CatalogEntry {
  id: string
  type: string
  name: string
  endpoints: Endpoint[]
}

/** Reads all of it: five queries. */
export async function catalogLoad(db: Query, wholeElse: boolean): Promise<Catalog> {
  const [services, every, associations, groups, providers] = await Promise.all([
    db.selectFrom('keystone.services').selectAll().where('enabled', '=', true).orderBy('type').orderBy('id').execute(),
    db.selectFrom('keystone.endpoints').selectAll().orderBy('id').execute(),
    db.selectFrom('keystone.project_endpoints').selectAll().execute(),
    db
      .selectFrom('keystone.project_endpoint_groups as p')
      .innerJoin('keystone.endpoint_groups as g', 'g.id', 'p.endpoint_group_id')
      .select(['p.project_id', 'g.filters'])
      .execute(),
    db
      .selectFrom('keystone.service_providers')
      .select(['id', 'auth_url', 'sp_url'])
      .where('enabled', '=', true)
      .orderBy('id')
      .execute(),
  ])
  const byProject = new Map<string, Set<string>>()
  const see = (project: string, endpoint: string) => byProject.set(project, (byProject.get(project) ?? new Set()).add(endpoint))
  for (const { project_id, endpoint_id } of associations) see(project_id, endpoint_id)
  for (const { project_id, filters } of groups)
    for (const endpoint of every) if (groupHas(filters, endpoint)) see(project_id, endpoint.id)
  const endpoints = every.filter(endpoint => endpoint.enabled)
  return {
    byProject,
    wholeElse,
    providers,
    services: services.map(({ id, type, name }) => ({
      id,
      type,
      name: name ?? '',
      endpoints: endpoints
        .filter(e => e.service_id === id)
        .map(e => ({
          id: e.id,
          service_id: id,
          interface: e.interface,
          region_id: e.region_id,
          region: e.region_id,
          url: e.url,
          ...(typeof e.extra.name === 'string' && { name: e.extra.name }),
        })),
    })),
  }
}

/** Whether an endpoint passes the filter of an endpoint group. */
export function groupHas(
  filters: Record<string, unknown>,
  endpoint: { service_id: string; region_id: string | null; interface: string },
): boolean {
  const actual: Record<string, unknown> = { ...endpoint, region: endpoint.region_id }
  return Object.entries(filters).every(([name, value]) => !(name in actual) || actual[name] === value)
}

/** The values that URLs may name, as `$(project_id)s` or `%(project_id)s`. */
export interface Substitutes {
  project_id?: string
  user_id?: string
}

/** Completes a URL; null when it names something that the scope does not have, so that the endpoint is of no use to it. */
export function urlComplete(url: string, { project_id, user_id }: Substitutes): string | null {
  const values: Record<string, string | undefined> = { project_id, tenant_id: project_id, user_id }
  let usable = true
  const full = url.replace(/[$%]\((\w+)\)s/g, (_, name: string) => {
    const value = values[name]
    if (value === undefined) usable = false
    return value ?? ''
  })
  return usable ? full : null
}

/**
 * The catalog of a scope. A project that has endpoints associated sees only those, and only services that have some; any other sees all,
 * or nothing.
 */
export function catalogFor(catalog: Catalog, substitutes: Substitutes): CatalogEntry[] {
  const own = substitutes.project_id === undefined ? undefined : catalog.byProject.get(substitutes.project_id)
  if (!own && !catalog.wholeElse) return []
  const entries = catalog.services.map(service => ({
    id: service.id,
    type: service.type,
    name: service.name,
    endpoints: service.endpoints.flatMap(({ service_id: _, ...endpoint }) => {
      const url = !own || own.has(endpoint.id) ? urlComplete(endpoint.url, substitutes) : null
      return url === null ? [] : [{ ...endpoint, url }]
    }),
  }))
  return own ? entries.filter(entry => entry.endpoints.length > 0) : entries
}

/** A stable id from parts, for rows that bootstrap makes: running it again finds the same rows. */
export const stableId = (...parts: string[]): string => createHash('sha256').update(parts.join('\0')).digest('hex').slice(0, 32)
