// What hosts could not do, in words that name the object as its owner does.
import { sql } from '#kit/db/index.ts'
import type { NetError } from '../verbs.ts'

/** An error of a host's last report, with the name of the network, router or port that it is about. */
export type HostError = NetError & { name: string | null }

/** The errors of the last report of the host in `host` (an SQL expression), as a JSON list of {@link HostError}. */
export const errorsOf = (host: string) => sql<HostError[]>`coalesce((
  select jsonb_agg(e || jsonb_build_object('name', coalesce(
    (select n.name from neutron.networks n where n.id = e ->> 'id'), (select r.name from neutron.routers r where r.id = e ->> 'id'),
    (select p.name from neutron.ports p where p.id = e ->> 'id'))))
  from neutron.host_networks h, jsonb_array_elements(h.errors) e where h.host = ${sql.ref(host)}), '[]')`

const STEPS: Record<NetError['kind'], string> = {
  network: 'bridge of network',
  port: 'wiring of port',
  security: 'filters of security groups',
  dhcp: 'DHCP server of network',
  router: 'router',
  metadata: 'metadata in the namespace of',
  host: 'host',
}

/** `DHCP server of network private (ID): dnsmasq …: not installed on this host`: object, step, and the tool's own words. */
export function errorText({ kind, id, name, message }: HostError): string {
  const whose = id === null ? '' : name ? ` ${name} (${id})` : ` ${id}`
  return `${STEPS[kind] ?? kind}${whose}: ${message}`
}
