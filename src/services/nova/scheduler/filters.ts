/**
 * The filters by the names that operators know. Each answers null for a host that will do, or in one sentence why not: a user who gets
 * "no valid host" deserves to be told which of his wishes it was.
 */
import { isIPv4 } from 'node:net'
import type { HostState, ScheduleRequest } from './request.ts'
import type { FilterSettings } from './scheduler.ts'

export type Filter = (host: HostState, request: ScheduleRequest, settings: FilterSettings) => string | null

/** An aggregate's metadata value may list several. */
const values = (text: string): string[] => text.split(',').map(v => v.trim())

/** All values that the host's aggregates give to a key. */
const aggregateValues = (host: HostState, key: string): string[] =>
  host.aggregates.flatMap(a => (a.metadata[key] === undefined ? [] : values(a.metadata[key])))

/** The operators of extra specs: `s== x`, `>= 3`, `<in> x`, `<or> a <or> b`, `<all-in> a b`; without one: equal as text. */
export function matches(value: string | undefined, wanted: string): boolean {
  if (value === undefined) return false
  const words = wanted.trim().split(/\s+/)
  const [operator, ...rest] = words
  const compare: Record<string, (a: string, b: string) => boolean> = {
    '=': (a, b) => Number(a) >= Number(b),
    '==': (a, b) => Number(a) === Number(b),
    '!=': (a, b) => Number(a) !== Number(b),
    '>=': (a, b) => Number(a) >= Number(b),
    '<=': (a, b) => Number(a) <= Number(b),
    's==': (a, b) => a === b,
    's!=': (a, b) => a !== b,
    's<': (a, b) => a < b,
    's<=': (a, b) => a <= b,
    's>': (a, b) => a > b,
    's>=': (a, b) => a >= b,
  }
  if (operator === '<or>') return words.filter(w => w !== '<or>').includes(value)
  if (operator === '<in>') return value.includes(rest[0] ?? '')
  if (operator === '<all-in>') return rest.every(word => value.includes(word))
  const by = Object.hasOwn(compare, operator!) ? compare[operator!] : undefined
  return by ? by(value, rest.join(' ')) : value === wanted
}

const compute: Filter = host => {
  if (host.disabled) return `its service is disabled${host.disabledReason ? ` (${host.disabledReason})` : ''}`
  return host.up ? null : 'its service is down'
}

/** What `capabilities:…` extra specs may ask of a host. */
function capability(host: HostState, path: string[]): string | undefined {
  const { hypervisor, free } = host
  const known: Record<string, unknown> = {
    ...hypervisor,
    ...hypervisor.inventory,
    vcpus_total: hypervisor.vcpus,
    free_ram_mb: free.MEMORY_MB,
    free_disk_gb: free.DISK_GB,
    cpu_info: hypervisor.inventory.cpu,
    nodename: host.node,
  }
  let at: unknown = known
  for (const part of path) at = typeof at === 'object' && at !== null ? (at as Record<string, unknown>)[part] : undefined
  return at === undefined ? undefined : typeof at === 'object' ? JSON.stringify(at) : String(at)
}

const capabilities: Filter = (host, { flavor }) => {
  for (const [name, wanted] of Object.entries(flavor.extra_specs)) {
    const scope = name.split(':')
    if (scope.length > 1 && scope.shift() !== 'capabilities') continue
    if (!name.includes(':')) continue
    if (!matches(capability(host, scope), wanted)) return `it has not ${scope.join(':')} ${wanted}`
  }
  return null
}

const imageProperties: Filter = (host, { image }) => {
  const of = image?.properties ?? {}
  const { inventory } = host.hypervisor
  const architecture = of.hw_emulation_architecture ?? of.hw_architecture ?? of.architecture
  const same = (a: string, b: string) => a.toLowerCase().replace('amd64', 'x86_64') === b.toLowerCase()
  if (architecture && !same(architecture, inventory.architecture))
    return `its architecture is ${inventory.architecture}, not ${architecture}`
  const type = (of.img_hv_type ?? of.hypervisor_type)?.toLowerCase()
  if (type && !['qemu', 'kvm'].includes(type)) return `its hypervisor is ${inventory.hypervisorType}, not ${type}`
  const mode = of.hw_vm_mode ?? of.vm_mode
  if (mode && mode !== 'hvm') return `it runs guests of mode hvm, not ${mode}`
  return null
}

const antiAffinity: Filter = (host, { group }) => {
  if (group?.policy !== 'anti-affinity') return null
  const here = group.hosts.filter(h => h === host.host).length
  return here < (group.rules.max_server_per_host ?? 1) ? null : 'a server of its group is there'
}

const affinity: Filter = (host, { group }) =>
  group?.policy !== 'affinity' || group.hosts.length === 0 || group.hosts.includes(host.host)
    ? null
    : 'the servers of its group are elsewhere'

const sameHost: Filter = (host, { sameHosts }) =>
  !sameHosts || sameHosts.includes(host.host) ? null : 'none of the servers in same_host is there'
const differentHost: Filter = (host, { differentHosts }) =>
  !differentHosts?.includes(host.host) ? null : 'a server in different_host is there'

const nearIp: Filter = (host, { hints }) => {
  const near = hints.build_near_host_ip
  if (typeof near !== 'string' || !isIPv4(near)) return null
  const bits = Number(String(hints.cidr ?? '/24').replace('/', ''))
  const number = (ip: string): number => ip.split('.').reduce((sum, part) => sum * 256 + Number(part), 0)
  const ip = host.hypervisor.host_ip
  const network = (of: string): number => Math.floor(number(of) / 2 ** (32 - bits))
  return ip && isIPv4(ip) && network(ip) === network(near) ? null : `its address ${ip} is not near ${near}`
}

const isolated: Filter = (host, { image }, settings) => {
  const isolatedHost = settings.isolated_hosts.includes(host.host)
  const isolatedImage = image !== null && settings.isolated_images.includes(image.id)
  if (isolatedImage) return isolatedHost ? null : 'its image is for isolated hosts'
  return isolatedHost && settings.restrict_isolated_hosts_to_isolated_images ? 'it is for isolated images' : null
}

const ioOps: Filter = (host, _, settings) => {
  const most = limitOf(host, 'max_io_ops_per_host', settings.max_io_ops_per_host)
  return host.busy < most ? null : `${host.busy} servers are being built there`
}
const numInstances: Filter = (host, _, settings) => {
  const most = limitOf(host, 'max_instances_per_host', settings.max_instances_per_host)
  return host.servers < most ? null : `${host.servers} servers are there`
}

/** The smallest value that the host's aggregates set, or the setting. */
function limitOf(host: HostState, key: string, setting: number): number {
  const numbers = aggregateValues(host, key).map(Number).filter(Number.isFinite)
  return numbers.length > 0 ? Math.min(...numbers) : setting
}

const tenancy: Filter = (host, { projectId }) => {
  const tenants = host.aggregates.flatMap(a =>
    Object.entries(a.metadata).flatMap(([key, value]) => (key.startsWith('filter_tenant_id') ? values(value) : [])),
  )
  return tenants.length === 0 || tenants.includes(projectId) ? null : 'its aggregate is for other projects'
}

const imageIsolation: Filter = (host, { image }) => {
  for (const [key, value] of Object.entries(image?.properties ?? {})) {
    const wanted = aggregateValues(host, key)
    if (wanted.length > 0 && !wanted.includes(value)) return `its aggregate wants images of ${key} ${wanted.join(' or ')}`
  }
  return null
}

const extraSpecs: Filter = (host, { flavor }) => {
  for (const [name, wanted] of Object.entries(flavor.extra_specs)) {
    const parts = name.split(':')
    if (parts.length > 1 && parts[0] !== 'aggregate_instance_extra_specs') continue
    const key = parts.at(-1)!
    if (parts.length === 1 && ['group_policy', 'hide_hypervisor_id'].includes(key)) continue
    const have = aggregateValues(host, key)
    if (wanted === '!' ? have.length > 0 : wanted === '*' ? have.length === 0 : !have.some(v => matches(v, wanted))) {
      return `no aggregate of it has ${key} ${wanted}`
    }
  }
  return null
}

const flavorType: Filter = (host, { flavor }) => {
  const types = aggregateValues(host, 'instance_type')
  return types.length === 0 || types.includes(flavor.name) ? null : `its aggregate is for flavors ${types.join(', ')}`
}

/** The hint `query`: `["and", [">=", "$free_ram_mb", 1024], ["=", "$host", "a"]]`. */
const jsonQuery: Filter = (host, { hints }) => {
  if (hints.query === undefined || hints.query === '') return null
  let query: unknown = hints.query
  if (typeof query === 'string') {
    try {
      query = JSON.parse(query)
    } catch {
      return 'the hint query is no JSON'
    }
  }
  return truth(host, query) ? null : 'the hint query does not hold there'
}

function truth(host: HostState, query: unknown): boolean {
  if (!Array.isArray(query)) return Boolean(query)
  const [operator, ...rest] = query as [string, ...unknown[]]
  if (operator === 'and') return rest.every(part => truth(host, part))
  if (operator === 'or') return rest.some(part => truth(host, part))
  if (operator === 'not') return !rest.some(part => truth(host, part))
  const args = rest.map(arg => (typeof arg === 'string' && arg.startsWith('$') ? capability(host, arg.slice(1).split('.')) : arg))
  const [first, ...others] = args
  const pairs = (test: (a: number, b: number) => boolean) => others.every(b => test(Number(first), Number(b)))
  switch (operator) {
    case '=':
      return others.every(b => String(b) === String(first))
    case 'in':
      return others.flat().some(b => String(b) === String(first))
    case '<':
      return pairs((a, b) => a < b)
    case '>':
      return pairs((a, b) => a > b)
    case '<=':
      return pairs((a, b) => a <= b)
    case '>=':
      return pairs((a, b) => a >= b)
    default:
      return false
  }
}

export const FILTERS: Record<string, Filter> = {
  AggregateImagePropertiesIsolation: imageIsolation,
  AggregateInstanceExtraSpecsFilter: extraSpecs,
  AggregateIoOpsFilter: ioOps,
  AggregateMultiTenancyIsolation: tenancy,
  AggregateNumInstancesFilter: numInstances,
  AggregateTypeAffinityFilter: flavorType,
  AllHostsFilter: () => null,
  ComputeCapabilitiesFilter: capabilities,
  ComputeFilter: compute,
  DifferentHostFilter: differentHost,
  ImagePropertiesFilter: imageProperties,
  IoOpsFilter: ioOps,
  IsolatedHostsFilter: isolated,
  JsonFilter: jsonQuery,
  NumInstancesFilter: numInstances,
  SameHostFilter: sameHost,
  ServerGroupAffinityFilter: affinity,
  ServerGroupAntiAffinityFilter: antiAffinity,
  SimpleCIDRAffinityFilter: nearIp,
}
