/** /servers/ID/os-interface, and the older actions on fixed and floating IPs. */
import { badRequest, conflict, gone, notFound } from '#kit/fault.ts'
import { callWithin } from '#kit/http/inner.ts'
import { type Call, type Route, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { neutron } from '#services/neutron/index.ts'
import { action } from '../actions/action.ts'
import { IpAddress, query, Tag } from '../fields.ts'
import { type Interface, neighbours } from '../neighbours.ts'
import { serverTarget } from '../servers/routes.ts'
import type { Server } from '../servers/store.ts'
import { V } from '../versions.ts'
import { interfaceAttach, interfaceDetach, shownOf } from './attach.ts'

const CLOSED = { additionalProperties: false }
const { Optional, since } = S
type OnServer = Call<unknown, unknown, Server>

const shown = (port: Interface, tag: string | null, version: number) => ({
  port_state: port.state,
  fixed_ips: port.fixedIps,
  net_id: port.networkId,
  port_id: port.portId,
  mac_addr: port.mac,
  ...(version >= V.tagsShown ? { tag } : {}),
})

const tagOf = (server: Server, portId: string): string | null => server.nics.find(nic => nic.portId === portId)?.tag ?? null

const attachBody = S.Object(
  {
    interfaceAttachment: Optional(
      S.Object(
        {
          net_id: Optional(S.Uuid()),
          port_id: Optional(S.Uuid()),
          fixed_ips: Optional(S.Array(S.Object({ ip_address: IpAddress() }, CLOSED), { minItems: 1, maxItems: 1 })),
          tag: since(V.attachTags, Optional(Tag())),
        },
        CLOSED,
      ),
    ),
  },
  CLOSED,
)

const interfaces: Route[] = [
  route({
    method: 'GET',
    path: '/servers/:id/os-interface',
    policy: 'os_compute_api:os-attach-interfaces:list',
    query: query({}, V.flavorName),
    target: serverTarget,
    async handle({ db, target, version }) {
      const ports = await neighbours.interfaces(db, target.id)
      return { interfaceAttachments: ports.map(port => shown(port, tagOf(target, port.portId), version)) }
    },
  }),
  route({
    method: 'POST',
    path: '/servers/:id/os-interface',
    policy: 'os_compute_api:os-attach-interfaces:create',
    target: serverTarget,
    body: attachBody,
    async handle(call) {
      const { net_id: network, port_id: port, fixed_ips, tag } = call.body.interfaceAttachment ?? {}
      const fixedIp = fixed_ips?.[0]?.ip_address
      if (network !== undefined && port !== undefined) throw badRequest('Must not input both network_id and port_id')
      if (fixedIp !== undefined && network === undefined) throw badRequest('Must input network_id when request IP address')
      const made = await interfaceAttach(call, { network, port, fixedIp, tag })
      return { interfaceAttachment: shown(made.shown, made.tag, call.version) }
    },
  }),
  route({
    method: 'GET',
    path: '/servers/:id/os-interface/:port',
    policy: 'os_compute_api:os-attach-interfaces:show',
    query: query({}, V.flavorName),
    target: serverTarget,
    async handle(call) {
      const { params, target, version } = call
      const port = await shownOf(call, target.id, params.port!)
      return { interfaceAttachment: shown(port, tagOf(target, port.portId), version) }
    },
  }),
  route({
    method: 'DELETE',
    path: '/servers/:id/os-interface/:port',
    success: 202,
    policy: 'os_compute_api:os-attach-interfaces:delete',
    target: serverTarget,
    handle: call => interfaceDetach(call, call.params.port!),
  }),
  route({
    method: 'GET',
    path: '/servers/:id/os-virtual-interfaces',
    policy: null,
    handle() {
      throw gone('Virtual interfaces are listed by os-interface.')
    },
  }),
]

interface Port {
  id: string
  network_id: string
  fixed_ips: { subnet_id: string; ip_address: string }[]
}

/** What Neutron says of the server's ports, as the caller sees them. */
async function portsOf(call: OnServer): Promise<Port[]> {
  const found = (await callWithin(call, neutron, 'GET', `/v2.0/ports?device_id=${call.target.id}`)) as { ports: Port[] }
  return found.ports
}

const setAddresses = (call: OnServer, port: Port, fixed_ips: object[]): Promise<unknown> =>
  callWithin(call, neutron, 'PUT', `/v2.0/ports/${port.id}`, { port: { fixed_ips } })

const fixedIpActions: Route[] = [
  action({
    key: 'addFixedIp',
    policy: 'os_compute_api:os-multinic:add',
    until: V.noIpActions - 1,
    value: S.Object({ networkId: S.Unsafe<string | number>({ type: ['string', 'integer'], minLength: 1 }) }, CLOSED),
    async handle(call, { networkId }) {
      const port = (await portsOf(call)).find(found => found.network_id === String(networkId))
      if (!port) throw badRequest(`Unable to find a port of server ${call.target.id} on network ${networkId}.`)
      const { subnets } = (await callWithin(call, neutron, 'GET', `/v2.0/subnets?network_id=${port.network_id}`)) as {
        subnets: { id: string; ip_version: number }[]
      }
      const subnet = subnets.find(of => of.ip_version === 4) ?? subnets[0]
      if (!subnet) throw badRequest(`Network ${networkId} has no subnet.`)
      await setAddresses(call, port, [...port.fixed_ips, { subnet_id: subnet.id }])
    },
  }),
  action({
    key: 'removeFixedIp',
    policy: 'os_compute_api:os-multinic:remove',
    until: V.noIpActions - 1,
    value: S.Object({ address: IpAddress() }, CLOSED),
    async handle(call, { address }) {
      const port = (await portsOf(call)).find(found => found.fixed_ips.some(ip => ip.ip_address === address))
      if (!port) throw badRequest(`Fixed IP ${address} not found on server ${call.target.id}.`)
      await setAddresses(
        call,
        port,
        port.fixed_ips.filter(ip => ip.ip_address !== address),
      )
    },
  }),
]

interface FloatingIp {
  id: string
  port_id: string | null
  fixed_ip_address: string | null
}

async function floatingIp(call: OnServer, address: string): Promise<FloatingIp> {
  const path = `/v2.0/floatingips?floating_ip_address=${encodeURIComponent(address)}`
  const { floatingips } = (await callWithin(call, neutron, 'GET', path)) as { floatingips: FloatingIp[] }
  if (!floatingips[0]) throw notFound(`Floating IP not found for address ${address}.`)
  return floatingips[0]
}

const floatingIpActions: Route[] = [
  action({
    key: 'addFloatingIp',
    policy: 'os_compute_api:os-floating-ips:add',
    until: V.noIpActions - 1,
    value: S.Object({ address: IpAddress(), fixed_address: Optional(IpAddress()) }, CLOSED),
    async handle(call, { address, fixed_address: fixed }) {
      const floating = await floatingIp(call, address)
      const ports = (await portsOf(call)).filter(port => port.fixed_ips.length > 0)
      if (ports.length === 0) throw badRequest(`No fixed IP addresses available for instance: ${call.target.id}`)
      const of = (port: Port) =>
        port.fixed_ips.find(ip => (fixed === undefined ? !ip.ip_address.includes(':') : ip.ip_address === fixed))
      const port = ports.find(of)
      if (!port) throw badRequest('Specified fixed address not assigned to instance')
      await callWithin(call, neutron, 'PUT', `/v2.0/floatingips/${floating.id}`, {
        floatingip: { port_id: port.id, fixed_ip_address: of(port)!.ip_address },
      })
    },
  }),
  action({
    key: 'removeFloatingIp',
    policy: 'os_compute_api:os-floating-ips:remove',
    until: V.noIpActions - 1,
    value: S.Object({ address: IpAddress() }, CLOSED),
    async handle(call, { address }) {
      const floating = await floatingIp(call, address)
      const ports = await portsOf(call)
      if (!ports.some(port => port.id === floating.port_id)) {
        throw conflict(`Floating IP ${address} is not associated with instance ${call.target.id}.`)
      }
      await callWithin(call, neutron, 'PUT', `/v2.0/floatingips/${floating.id}`, { floatingip: { port_id: null } })
    },
  }),
]

export const interfaceRoutes: Route[] = [...interfaces, ...fixedIpActions, ...floatingIpActions]
