import { route } from '#kit/http/route.ts'

/** The version list at the service's root, and the resources of v2.0. Both need no token. */
export const versionRoutes = (collections: () => readonly string[]) => [
  route({
    method: 'GET',
    path: '/',
    mounts: [''],
    policy: null,
    auth: 'none',
    handle: ({ self }) => ({ versions: [{ id: 'v2.0', status: 'CURRENT', links: [{ rel: 'self', href: self('/v2.0/', '') }] }] }),
  }),
  route({
    method: 'GET',
    path: '',
    policy: null,
    auth: 'none',
    handle: ({ self }) => ({
      resources: collections().map(name => ({
        name: name.replace(/s$/, ''),
        collection: name,
        links: [{ rel: 'self', href: self(`/${name}`) }],
      })),
    }),
  }),
]
