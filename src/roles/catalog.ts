/** What the catalog says of each service, as DevStack's path prefixes have it. Left to right, as in services.ts. */
export const CATALOG: readonly { name: string; type: string; path: string; description: string }[] = [
  { name: 'keystone', type: 'identity', path: '/identity', description: 'Identity' },
  { name: 'placement', type: 'placement', path: '/placement', description: 'Placement' },
  { name: 'swift', type: 'object-store', path: '/object-store/v1/AUTH_$(project_id)s', description: 'Object storage' },
  { name: 'glance', type: 'image', path: '/image', description: 'Images' },
  { name: 'neutron', type: 'network', path: '/networking', description: 'Networking' },
  { name: 'nova', type: 'compute', path: '/compute/v2.1', description: 'Compute' },
]
