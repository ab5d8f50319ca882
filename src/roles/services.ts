/** Every service of the program, left to right: each may call those before it. */
import type { Service } from '#kit/service.ts'
import { glance } from '#services/glance/index.ts'
import { keystone } from '#services/keystone/index.ts'
import { neutron } from '#services/neutron/index.ts'
import { nova } from '#services/nova/index.ts'
import { placement } from '#services/placement/index.ts'
import { swift } from '#services/swift/index.ts'

export const SERVICES: readonly Service[] = [keystone, placement, swift, glance, neutron, nova]

/** What the catalog says of each service, as DevStack's path prefixes have it. */
export const CATALOG: readonly { name: string; type: string; path: string; description: string }[] = [
  { name: 'keystone', type: 'identity', path: '/identity', description: 'Identity' },
  { name: 'placement', type: 'placement', path: '/placement', description: 'Placement' },
  { name: 'swift', type: 'object-store', path: '/object-store/v1/AUTH_$(project_id)s', description: 'Object storage' },
  { name: 'glance', type: 'image', path: '/image', description: 'Images' },
  { name: 'neutron', type: 'network', path: '/networking', description: 'Networking' },
  { name: 'nova', type: 'compute', path: '/compute/v2.1', description: 'Compute' },
]
