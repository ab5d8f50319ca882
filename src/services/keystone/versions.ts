import { type Call, type Route, route } from '#kit/http/route.ts'
import { identityOf } from './identity.ts'
import { jsonHome } from './jsonhome.ts'

/** Identity has one version; what it can do is told by its minor number and by the JSON home document. */
export const VERSION = { id: 'v3.14', status: 'stable', updated: '2020-04-07T00:00:00Z' }

const MEDIA_TYPES = [{ base: 'application/json', type: 'application/vnd.openstack.identity-v3+json' }]

/** The URL of /v3, whatever path was called. */
function v3Url(call: Call): string {
  const base = identityOf(call.env).settings.public_endpoint?.replace(/\/(v3\/?)?$/, '') ?? call.self('', '')
  return `${base}/v3/`
}

const versionView = (call: Call) => ({ ...VERSION, links: [{ rel: 'self', href: v3Url(call) }], 'media-types': MEDIA_TYPES })

const wantsHome = (call: Call): boolean =>
  String(call.headers.accept ?? '')
    .split(',')
    .some(type => type.trim().startsWith('application/json-home'))

/** Discovery: the list of versions at the root, the version at /v3; both also as JSON home of `routes`. */
export const versionRoutes = (routes: () => readonly Route[]): Route[] => [
  route({
    method: 'GET',
    path: '/',
    mounts: [''],
    policy: null,
    auth: 'none',
    success: 300,
    handle(call) {
      if (wantsHome(call)) {
        call.reply.status = 200
        return jsonHome(routes(), '/v3')
      }
      call.reply.headers.Location = v3Url(call)
      return { versions: { values: [versionView(call)] } }
    },
  }),
  route({
    method: 'GET',
    path: '',
    policy: null,
    auth: 'none',
    handle(call) {
      return wantsHome(call) ? jsonHome(routes(), '') : { version: versionView(call) }
    },
  }),
]
