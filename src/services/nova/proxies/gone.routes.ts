/** Resources that the API once had and that are gone whatever the version: they answer 410, as clients of old expect. */
import { gone } from '#kit/fault.ts'
import { type Method, type Route, route } from '#kit/http/route.ts'

/** Path → its methods. */
const GONE: Record<string, Method[]> = {
  '/os-agents': ['GET', 'POST'],
  '/os-agents/:id': ['PUT', 'DELETE'],
  '/os-cells': ['GET', 'POST'],
  '/os-cells/capacities': ['GET'],
  '/os-cells/detail': ['GET'],
  '/os-cells/info': ['GET'],
  '/os-cells/sync_instances': ['POST'],
  '/os-cells/:id': ['GET', 'PUT', 'DELETE'],
  '/os-cells/:id/capacities': ['GET'],
  '/os-certificates': ['POST'],
  '/os-certificates/:id': ['GET'],
  '/os-cloudpipe': ['GET', 'POST'],
  '/os-cloudpipe/:id': ['PUT'],
  '/os-fixed-ips/:id': ['GET'],
  '/os-fixed-ips/:id/action': ['POST'],
  '/os-floating-ip-dns': ['GET'],
  '/os-floating-ip-dns/:domain': ['PUT', 'DELETE'],
  '/os-floating-ip-dns/:domain/entries/:id': ['GET', 'PUT', 'DELETE'],
  '/os-floating-ips-bulk': ['GET', 'POST'],
  '/os-floating-ips-bulk/:id': ['GET', 'PUT'],
  '/os-fping': ['GET'],
  '/os-fping/:id': ['GET'],
  '/os-security-group-default-rules': ['GET', 'POST'],
  '/os-security-group-default-rules/:id': ['GET', 'DELETE'],
  '/servers/:id/consoles': ['GET', 'POST'],
  '/servers/:id/consoles/:console': ['GET', 'DELETE'],
}

export const goneRoutes: Route[] = Object.entries(GONE).flatMap(([path, methods]) =>
  methods.map(method =>
    route({
      method,
      path,
      policy: null,
      handle() {
        throw gone('This resource is not there any more.')
      },
    }),
  ),
)
