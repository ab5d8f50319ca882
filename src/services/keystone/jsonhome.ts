import { bytes, type Route } from '#kit/http/route.ts'

// The JSON home document (draft-nottingham-json-home-03) lists every resource with its path or path template. Names of relations
// follow from paths by a rule, so that the route table is the only list.

const RELATION = 'https://docs.openstack.org/api/openstack-identity/3'
const EXTENSION = 'https://docs.openstack.org/api/openstack-identity/3/ext'

const singular = (word: string): string =>
  word.endsWith('ies') ? `${word.slice(0, -3)}y` : word.endsWith('s') && !word.endsWith('ss') ? word.slice(0, -1) : word

function relationOf(path: string): { rel: string; vars: string[] } {
  const parts = path.split('/').filter(Boolean)
  const vars = parts.filter(part => part.startsWith(':')).map(part => part.slice(1))
  const extension = parts[0]?.startsWith('OS-') ? parts.shift() : undefined
  const words: string[] = []
  parts.forEach((part, at) => {
    if (part.startsWith(':')) return
    words.push(parts[at + 1]?.startsWith(':') ? singular(part) : part)
  })
  const name = words.join('_').replaceAll('-', '_')
  return { rel: extension ? `${EXTENSION}/${extension}/1.0/rel/${name}` : `${RELATION}/rel/${name}`, vars }
}

/** The document of these routes; `mount` stands before each path. */
export function jsonHome(routes: readonly Route[], mount: string) {
  const resources: Record<string, unknown> = {}
  for (const { path, mounts } of routes) {
    if (mounts !== undefined || path === '') continue
    const { rel, vars } = relationOf(path)
    if (rel in resources) continue
    const href = `${mount}${path.replace(/:(\w+)/g, '{$1}')}`
    resources[rel] =
      vars.length === 0
        ? { href }
        : { 'href-template': href, 'href-vars': Object.fromEntries(vars.map(name => [name, `${RELATION}/param/${name}`])) }
  }
  return bytes(JSON.stringify({ resources }), { type: 'application/json-home' })
}
