/** Networks and floating IPs as they were asked of Nova until 2.35: Neutron answers, in Nova's old words. */
import ipaddr from 'ipaddr.js'
import { badRequest, gone, notFound } from '#kit/fault.ts'
import { callWithin } from '#kit/http/inner.ts'
import { type Call, type Method, type Route, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { neutron } from '#services/neutron/index.ts'
import { V } from '../versions.ts'

const until = V.noProxies - 1

/** A call of Neutron as the caller of this one. */
export const ask = <T>(call: Call, method: Method, path: string, body?: unknown): Promise<T> =>
  callWithin(call, neutron, method, `/v2.0${path}`, body) as Promise<T>

interface Network {
  id: string
  name: string
  mtu?: number
  project_id: string
  'router:external'?: boolean
  shared?: boolean
}

/** The networks that a server of the project could be on: its own and shared ones. */
async function networksOf(call: Call): Promise<Network[]> {
  const { networks } = await ask<{ networks: Network[] }>(call, 'GET', '/networks')
  return call.ctx.isAdmin ? networks : networks.filter(n => n.shared || n.project_id === call.ctx.projectId)
}

async function networkOf(call: Call): Promise<Network> {
  const found = (await networksOf(call)).find(network => network.id === call.params.id)
  if (!found) throw notFound('Network not found')
  return found
}

const NOTHING = [
  'bridge',
  'vpn_public_port',
  'dhcp_start',
  'bridge_interface',
  'share_address',
  'updated_at',
  'injected',
  'deleted_at',
  'cidr',
  'vpn_public_address',
  'multi_host',
  'dns1',
  'dns2',
  'created_at',
  'gateway_v6',
  'netmask_v6',
  'priority',
  'project_id',
  'rxtx_base',
  'vlan',
  'netmask',
  'cidr_v6',
  'host',
  'broadcast',
  'dhcp_server',
  'deleted',
  'vpn_private_address',
  'gateway',
  'enable_dhcp',
]
/** What is the subnets' business is null, as it always was with Neutron behind Nova. */
const networkShown = ({ id, name }: Network) => ({
  ...Object.fromEntries(NOTHING.map(field => [field, null])),
  id,
  label: name,
  mtu: null,
})
const tenantShown = ({ id, name }: Network) => ({ id, label: name, cidr: 'None' })

const read = (collection: string, rule: string, shown: (network: Network) => object): Route[] => [
  route({
    method: 'GET',
    path: `/${collection}`,
    until,
    policy: `os_compute_api:${rule}:list`,
    handle: async call => ({ networks: (await networksOf(call)).map(shown) }),
  }),
  route({
    method: 'GET',
    path: `/${collection}/:id`,
    until,
    policy: `os_compute_api:${rule}:show`,
    handle: async call => ({ network: shown(await networkOf(call)) }),
  }),
]

const removed = (method: Method, path: string): Route =>
  route({
    method,
    path,
    until,
    policy: null,
    handle() {
      throw gone('Networks are made and changed by the networking API.')
    },
  })

interface Floating {
  id: string
  floating_ip_address: string
  fixed_ip_address: string | null
  floating_network_id: string
  port_id: string | null
}

/** Floating IPs in Nova's form: with the server that they lead to and the name of their network. */
async function floatingShown(call: Call, floatings: Floating[]): Promise<object[]> {
  const pools = new Map(
    (await ask<{ networks: Network[] }>(call, 'GET', '/networks?router:external=true')).networks.map(n => [n.id, n.name]),
  )
  const ids = floatings.flatMap(floating => floating.port_id ?? [])
  const query = ids.map(id => `id=${id}`).join('&')
  const ports =
    ids.length === 0 ? [] : (await ask<{ ports: { id: string; device_id: string }[] }>(call, 'GET', `/ports?${query}`)).ports
  const servers = new Map(ports.map(port => [port.id, port.device_id]))
  return floatings.map(floating => ({
    id: floating.id,
    ip: floating.floating_ip_address,
    fixed_ip: floating.fixed_ip_address,
    instance_id: (floating.port_id && servers.get(floating.port_id)) || null,
    pool: pools.get(floating.floating_network_id) ?? floating.floating_network_id,
  }))
}

const external = async (call: Call): Promise<Network[]> =>
  (await ask<{ networks: Network[] }>(call, 'GET', '/networks?router:external=true')).networks

const floatingRoutes: Route[] = [
  route({
    method: 'GET',
    path: '/os-floating-ip-pools',
    until,
    policy: 'os_compute_api:os-floating-ip-pools',
    handle: async call => ({ floating_ip_pools: (await external(call)).map(({ name }) => ({ name })) }),
  }),
  route({
    method: 'GET',
    path: '/os-floating-ips',
    until,
    policy: 'os_compute_api:os-floating-ips:list',
    async handle(call) {
      const { floatingips } = await ask<{ floatingips: Floating[] }>(call, 'GET', `/floatingips?project_id=${call.ctx.projectId}`)
      return { floating_ips: await floatingShown(call, floatingips) }
    },
  }),
  route({
    method: 'POST',
    path: '/os-floating-ips',
    until,
    policy: 'os_compute_api:os-floating-ips:create',
    body: S.Nullable(S.Object({ pool: S.Optional(S.Nullable(S.String())) })),
    async handle(call) {
      const { pool } = call.body ?? {}
      const pools = await external(call)
      const network = pool ? pools.find(({ id, name }) => name === pool || id === pool) : pools[0]
      if (!network) throw notFound(pool ? `Floating IP pool not found: ${pool}.` : 'Floating IP pool not found.')
      const { floatingip } = await ask<{ floatingip: Floating }>(call, 'POST', '/floatingips', {
        floatingip: { floating_network_id: network.id },
      })
      return { floating_ip: (await floatingShown(call, [floatingip]))[0] }
    },
  }),
  route({
    method: 'GET',
    path: '/os-floating-ips/:id',
    until,
    policy: 'os_compute_api:os-floating-ips:show',
    async handle(call) {
      return { floating_ip: (await floatingShown(call, [await floatingOf(call)]))[0] }
    },
  }),
  route({
    method: 'DELETE',
    path: '/os-floating-ips/:id',
    until,
    success: 202,
    policy: 'os_compute_api:os-floating-ips:delete',
    async handle(call) {
      const { id } = await floatingOf(call)
      await ask(call, 'DELETE', `/floatingips/${id}`)
    },
  }),
]

async function floatingOf(call: Call): Promise<Floating> {
  const id = call.params.id!
  const found = await ask<{ floatingips: Floating[] }>(call, 'GET', `/floatingips?id=${encodeURIComponent(id)}`)
  if (!found.floatingips[0]) throw notFound(`Floating IP not found for ID ${id}.`)
  return found.floatingips[0]
}

/** `10.0.0.1` and `10.0.0.0/8`, IPv6 as well. Throws badRequest. */
export function cidrOf(text: string): string {
  if (!text.includes('/') && ipaddr.isValid(text)) return `${text}/${text.includes(':') ? 128 : 32}`
  if (!ipaddr.isValidCIDR(text)) throw badRequest(`Invalid cidr ${text}.`)
  return text
}

export const networkProxyRoutes: Route[] = [
  ...read('os-networks', 'os-networks', networkShown),
  ...read('os-tenant-networks', 'os-tenant-networks', tenantShown),
  removed('POST', '/os-networks'),
  removed('POST', '/os-networks/add'),
  removed('DELETE', '/os-networks/:id'),
  removed('POST', '/os-networks/:id/action'),
  removed('POST', '/os-tenant-networks'),
  removed('DELETE', '/os-tenant-networks/:id'),
  ...floatingRoutes,
]
