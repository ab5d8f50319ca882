import { type Query, sql } from '#kit/db/index.ts'

/**
 * Whether a host answers metadata requests of this device: it runs the DHCP server, or a router, of a network that the device has a port on.
 * Such a host is told what the metadata is, although the device may be elsewhere.
 */
export async function metadataServes(q: Query, host: string, deviceId: string): Promise<boolean> {
  const { rows } = await sql<{ serves: boolean }>`
    select exists (select from neutron.ports p where p.device_id = ${deviceId} and p.device_owner like 'compute:%' and (
      exists (select from neutron.dhcp_bindings d where d.network_id = p.network_id and d.host = ${host})
      or exists (select from neutron.ports leg join neutron.router_bindings b on b.router_id = leg.device_id and b.host = ${host}
        where leg.network_id = p.network_id and leg.device_owner like 'network:router_interface%'))) as serves`.execute(q)
  return rows[0]!.serves
}
