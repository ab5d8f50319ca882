import { route } from '#kit/http/route.ts'
import { dated } from './edge.ts'
import { microversions as m } from './versions.ts'

/** The version document. */
export const root = route({
  method: 'GET',
  path: '/',
  policy: null,
  auth: 'none',
  handle(call) {
    dated(call)
    return {
      versions: [
        {
          id: `v${m.major}.${m.min}`,
          max_version: `${m.major}.${m.max}`,
          min_version: `${m.major}.${m.min}`,
          status: 'CURRENT',
          links: [{ rel: 'self', href: '' }],
        },
      ],
    }
  },
})
