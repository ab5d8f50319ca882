// Where metadata is served on a host, from the desired state. Pure.

import type { NetDesired } from '../desired.ts'
import type { MetadataGuest } from '../driver.ts'
import { dhcpLink, dhcpNetns, routerNetns } from '../names.ts'
import { linkLocal } from '../security/tables.ts'
import type { MetadataPlace } from './proxy.ts'

export const METADATA_V4 = '169.254.169.254'
export const METADATA_V6 = 'fe80::a9fe:a9fe'

/** One place for each DHCP server and router that serves metadata. */
export function metadataPlaces(desired: NetDesired, prefix: string, v6: boolean): MetadataPlace[] {
  const places: MetadataPlace[] = []
  for (const network of desired.networks) {
    if (!network.dhcp?.metadata) continue
    const guests = new Map<string, MetadataGuest>()
    for (const host of network.dhcp.hosts) {
      const known = { portId: host.portId, deviceId: host.deviceId, networkId: network.id }
      for (const { ip } of host.fixedIps) guests.set(ip, { ...known, ip })
      guests.set(linkLocal(host.mac), { ...known, ip: host.fixedIps[0]?.ip ?? linkLocal(host.mac) })
    }
    const addresses = [{ host: METADATA_V4, port: 80 }]
    if (v6) addresses.push({ host: `${METADATA_V6}%${dhcpLink(network.dhcp.portId)}`, port: 80 })
    places.push({ netns: dhcpNetns(prefix, network.id), addresses, guests })
  }
  for (const router of desired.routers) {
    if (!router.metadata) continue
    const guests = new Map(router.metadata.map(guest => [guest.ip, guest] as const))
    places.push({ netns: routerNetns(prefix, router.id), addresses: [{ host: METADATA_V4, port: 80 }], guests })
  }
  return places
}
