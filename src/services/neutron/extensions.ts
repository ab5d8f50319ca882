import { notFound } from '#kit/fault.ts'
import { route } from '#kit/http/route.ts'

/** Alias, name: what works here beyond the core. Clients switch features on by these, so none is listed that does not work. */
const EXTENSIONS: readonly [alias: string, name: string][] = [['standard-attr-description', 'standard-attr-description']]

const view = ([alias, name]: readonly [string, string]) => ({
  alias,
  name,
  description: `Adds ${name}.`,
  updated: '2025-04-02T10:00:00-00:00',
  links: [],
})

export const extensionRoutes = [
  route({ method: 'GET', path: '/extensions', policy: null, handle: () => ({ extensions: EXTENSIONS.map(view) }) }),
  route({
    method: 'GET',
    path: '/extensions/:alias',
    policy: null,
    handle({ params }) {
      const found = EXTENSIONS.find(([alias]) => alias === params.alias)
      if (!found) throw notFound(`Extension with alias ${params.alias} does not exist`, { type: 'HTTPNotFound' })
      return { extension: view(found) }
    },
  }),
]
