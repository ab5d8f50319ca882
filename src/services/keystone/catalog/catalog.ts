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

interface EndpointGroup {
  id: string
  filters: Record<string, unknown>
}

export interface Catalog {
  services: Service[]
  /** Endpoints that only associated projects see, by project. */
  byProject: Map<string, Set<string>>
  groupsByProject: Map<string, EndpointGroup[]>
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
export async function catalogLoad(db: Query): Promise<Catalog> {
  const [services, endpoints, associations, groups, providers] = await Promise.all([
    db.selectFrom('keystone.services').selectAll().where('enabled', '=', true).orderBy('type').orderBy('id').execute(),
    db.selectFrom('keystone.endpoints').selectAll().where('enabled', '=', true).orderBy('id').execute(),
    db.selectFrom('keystone.project_endpoints').selectAll().execute(),
    db
      .selectFrom('keystone.project_endpoint_groups as p')
      .innerJoin('keystone.endpoint_groups as g', 'g.id', 'p.endpoint_group_id')
      .select(['p.project_id', 'g.id', 'g.filters'])
      .execute(),
    db
      .selectFrom('keystone.service_providers')
      .select(['id', 'auth_url', 'sp_url'])
      .where('enabled', '=', true)
      .orderBy('id')
      .execute(),
  ])
  const byProject = new Map<string, Set<string>>()
  for (const { project_id, endpoint_id } of associations) {
    byProject.set(project_id, (byProject.get(project_id) ?? new Set()).add(endpoint_id))
  }
  const groupsByProject = new Map<string, EndpointGroup[]>()
  for (const { project_id, id, filters } of groups) {
    groupsByProject.set(project_id, [...(groupsByProject.get(project_id) ?? []), { id, filters }])
  }
  return {
    byProject,
    groupsByProject,
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
 * The catalog of a scope. A project that has endpoints or endpoint groups associated sees only those; any other sees all.
 */
export function catalogFor(catalog: Catalog, substitutes: Substitutes): CatalogEntry[] {
  const project = substitutes.project_id
  const own = project === undefined ? undefined : catalog.byProject.get(project)
  const groups = project === undefined ? undefined : catalog.groupsByProject.get(project)
  const visible = (e: Service['endpoints'][number]) =>
    (!own && !groups) || own?.has(e.id) || groups?.some(group => groupHas(group.filters, e)) === true
  return catalog.services.map(service => ({
    id: service.id,
    type: service.type,
    name: service.name,
    endpoints: service.endpoints.filter(visible).flatMap(({ service_id: _, ...endpoint }) => {
      const url = urlComplete(endpoint.url, substitutes)
      return url === null ? [] : [{ ...endpoint, url }]
    }),
  }))
}

/** A stable id from parts, for rows that bootstrap makes: running it again finds the same rows. */
export const stableId = (...parts: string[]): string => createHash('sha256').update(parts.join('\0')).digest('hex').slice(0, 32)
