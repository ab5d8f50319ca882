/** What versions there are, and the frozen list of extensions. */
import { notFound } from '#kit/fault.ts'
import { bytes, type Call, type Route, route } from '#kit/http/route.ts'
import { EXTENSIONS } from './extensions.ts'
import { microversions } from './versions.ts'

const V21 = { id: 'v2.1', mount: '/v2.1/', updated: '2013-07-23T11:33:21Z' }
const V20 = { id: 'v2.0', mount: '/v2/', updated: '2011-01-21T11:33:21Z' }

const entry = ({ self }: Pick<Call, 'self'>, { id, mount, updated }: typeof V21) => ({
  id,
  status: id === V21.id ? 'CURRENT' : 'SUPPORTED',
  version: id === V21.id ? `${microversions.major}.${microversions.max}` : '',
  min_version: id === V21.id ? `${microversions.major}.${microversions.min}` : '',
  updated,
  links: [{ rel: 'self', href: self(mount, '') }],
})

const document = (call: Pick<Call, 'self'>, which: typeof V21) => {
  const { links, ...rest } = entry(call, which)
  return {
    version: {
      ...rest,
      links: [...links, { rel: 'describedby', type: 'text/html', href: 'http://docs.openstack.org/' }],
      'media-types': [{ base: 'application/json', type: `application/vnd.openstack.compute+json;version=${which.id.slice(1)}` }],
    },
  }
}

const extension = (alias: string) => {
  if (!Object.hasOwn(EXTENSIONS, alias)) throw notFound(`There is no extension ${alias}.`)
  const name = EXTENSIONS[alias]!
  return {
    alias,
    name,
    description: `${name} support.`,
    links: [],
    namespace: 'http://docs.openstack.org/compute/ext/fake_xml',
    updated: '2014-12-03T00:00:00Z',
  }
}

export const discoveryRoutes: Route[] = [
  route({
    method: 'GET',
    path: '/',
    mounts: [''],
    policy: null,
    auth: 'none',
    handle: call => ({ versions: [entry(call, V20), entry(call, V21)] }),
  }),
  route({
    method: 'GET',
    path: '/healthcheck',
    mounts: [''],
    policy: null,
    auth: 'none',
    async handle({ db }) {
      await db.selectFrom('nova.services').select('id').limit(1).execute()
      return bytes('OK', { type: 'text/plain; charset=UTF-8' })
    },
  }),
  route({ method: 'GET', path: '/', mounts: ['/v2.1'], policy: null, auth: 'none', handle: call => document(call, V21) }),
  route({ method: 'GET', path: '/', mounts: ['/v2'], policy: null, auth: 'none', handle: call => document(call, V20) }),
  route({
    method: 'GET',
    path: '/versions/:id',
    mounts: ['/v2.1'],
    policy: null,
    auth: 'none',
    handle(call) {
      const which = [V20, V21].find(v => v.id === call.params.id)
      if (!which) throw notFound('The resource could not be found.')
      return document(call, which)
    },
  }),
  route({
    method: 'GET',
    path: '/extensions',
    policy: 'os_compute_api:extensions',
    handle: () => ({ extensions: Object.keys(EXTENSIONS).map(extension) }),
  }),
  route({
    method: 'GET',
    path: '/extensions/:alias',
    policy: 'os_compute_api:extensions',
    handle: ({ params }) => ({ extension: extension(params.alias!) }),
  }),
]
