/** What a process can be, by names as OpenStack gives them to its daemons, and what each mounts. `nubo run` starts any of them together. */
import { CATALOG } from './catalog.ts'
import type { Duty } from './host.ts'

/** What a process mounts. */
export interface Plan {
  /** Services whose API it answers. */
  api: readonly string[]
  /** Services whose sagas, tasks and events it runs. */
  work: readonly string[]
  /** What it does as a host. */
  duties: readonly Duty[]
}

export interface Role extends Plan {
  /** One line for people. */
  about: string
}

const ALL = CATALOG.map(service => service.name)
const role = (about: string, plan: Partial<Plan>): Role => ({ about, api: [], work: [], duties: [], ...plan })
const service = (about: string, name: string): Role => role(about, { api: [name], work: [name] })

/** Every role. A controller takes any of them but the last two; those make this machine a host. */
export const ROLES: Readonly<Record<string, Role>> = {
  controller: role('every API, and all the work behind them', { api: ALL, work: ALL }),
  api: role('every API; the work is done by other processes', { api: ALL }),
  worker: role('the work of every service (operations, tasks, events), no API', { work: ALL }),
  keystone: service('identity', 'keystone'),
  'placement-api': service('placement', 'placement'),
  'swift-proxy-server': service('object storage, with its storage on the devices of this machine', 'swift'),
  'glance-api': service('images', 'glance'),
  'neutron-server': service('networking', 'neutron'),
  'nova-api': role('the API of compute', { api: ['nova'] }),
  'nova-conductor': role('the operations of compute, with the scheduler', { work: ['nova'] }),
  'nova-compute': role('this machine runs guests, and the networks that they need', { duties: ['compute', 'network'] }),
  'neutron-agent': role('this machine runs networks alone: routers and DHCP servers', { duties: ['network'] }),
}

/** All that these roles mount together. */
export function planOf(names: readonly string[]): Plan {
  const roles = names.map(name => ROLES[name]!)
  const together = <T>(of: (role: Role) => readonly T[]): T[] => [...new Set(roles.flatMap(one => [...of(one)]))]
  return { api: together(r => r.api), work: together(r => r.work), duties: together(r => r.duties) }
}
