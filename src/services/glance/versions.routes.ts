/** The versions document. A minor version says what the service can do; all are served under /v2. Source: glance/api/versions.py. */
import { type Call, route } from '#kit/http/route.ts'

/** The newest, then all others. 2.8 and 2.10 to 2.13 are those of several stores; 2.14, 2.16 and 2.18 those of the image cache. */
const CURRENT = 18
const MINORS = Array.from({ length: CURRENT + 1 }, (_, i) => CURRENT - i)

const versions = ({ self }: Pick<Call, 'self'>) => ({
  versions: MINORS.map(minor => ({
    id: `v2.${minor}`,
    status: minor === CURRENT ? 'CURRENT' : 'SUPPORTED',
    links: [{ rel: 'self', href: self('/v2/', '') }],
  })),
})

export const versionRoutes = [
  route({ method: 'GET', path: '/', mounts: [''], policy: null, auth: 'none', success: 300, handle: versions }),
  route({ method: 'GET', path: '/versions', mounts: [''], policy: null, auth: 'none', handle: versions }),
  // Clients that were told the endpoint with its version look for the list there.
  route({ method: 'GET', path: '/', policy: null, auth: 'none', success: 300, handle: versions }),
]
