/** Metadata definitions as the wire shows them. What is not set is left out. */
import { when } from '../images/view.ts'
import type { Definition, Namespace } from './store.ts'

const BASE = '/v2/metadefs/namespaces'
const times = (of: { created_at: Date; updated_at: Date }) => ({
  created_at: when(of.created_at),
  updated_at: when(of.updated_at),
})
const set = (of: Record<string, unknown>): Record<string, unknown> =>
  Object.fromEntries(Object.entries(of).filter(([, value]) => value !== null && value !== undefined))

export const namespaceHref = (name: string): string => `${BASE}/${encodeURIComponent(name)}`

/** A namespace by itself. */
export const namespaceView = (n: Namespace): Record<string, unknown> => ({
  ...set({ namespace: n.namespace, display_name: n.display_name, description: n.description, owner: n.owner }),
  visibility: n.visibility,
  protected: n.protected,
  ...times(n),
  self: namespaceHref(n.namespace),
  schema: '/v2/schemas/metadefs/namespace',
})

export const objectView = (d: Definition): Record<string, unknown> => ({
  name: d.name,
  required: [],
  properties: {},
  ...set(d.document),
  ...times(d),
  self: `${namespaceHref(d.namespace)}/objects/${encodeURIComponent(d.name)}`,
  schema: '/v2/schemas/metadefs/object',
})

export const tagView = (d: Definition): Record<string, unknown> => ({ name: d.name, ...times(d) })
export const propertyView = (d: Definition): Record<string, unknown> => ({ ...set(d.document), name: d.name })
export const associationView = (d: Definition): Record<string, unknown> => ({ name: d.name, ...set(d.document), ...times(d) })

/** A namespace with all that is in it; `prefix` stands before the names of properties. */
export function wholeView(n: Namespace, definitions: readonly Definition[], prefix = ''): Record<string, unknown> {
  const of = (kind: Definition['kind']) => definitions.filter(d => d.namespace === n.namespace && d.kind === kind)
  const prefixed = (properties: Record<string, unknown>) =>
    Object.fromEntries(Object.entries(properties).map(([name, value]) => [prefix + name, value]))
  const objects = of('object').map(d => {
    const view = objectView(d)
    const required = view.required as string[]
    return {
      ...view,
      properties: prefixed(view.properties as Record<string, unknown>),
      required: required.map(name => prefix + name),
    }
  })
  const properties = prefixed(Object.fromEntries(of('property').map(d => [d.name, set(d.document)])))
  const associations = of('resource_type').map(associationView)
  const tags = of('tag').map(d => ({ name: d.name }))
  return {
    ...namespaceView(n),
    ...(associations.length > 0 && { resource_type_associations: associations }),
    ...(Object.keys(properties).length > 0 && { properties }),
    ...(objects.length > 0 && { objects }),
    ...(tags.length > 0 && { tags }),
  }
}
