import { settings } from '#kit/config.ts'
import { Array, Integer, Object, Record, String } from '#kit/http/schema.ts'

const Range = (low: number, high: number, description: string) =>
  Object(
    {
      first: Integer({ default: low, description: 'Lowest number.' }),
      last: Integer({ default: high, description: 'Highest number.' }),
    },
    { description },
  )

export const neutronSettings = settings(
  'neutron',
  Object({
    base_mac: String({
      default: 'fa:16:3e',
      pattern: '^[0-9a-f][02468ace](:[0-9a-f]{2}){2}$',
      description: 'First three octets of generated MAC addresses.',
    }),
    tenant_network_type: String({
      default: 'vxlan',
      pattern: '^(vxlan|vlan|local|flat)$',
      description: 'Type of networks for which none is asked.',
    }),
    physical_networks: Array(String(), {
      default: ['public'],
      description: 'Physical networks that flat and vlan networks may name.',
    }),
    bridge_mappings: Array(String(), {
      default: ['public:br-ex'],
      description:
        'What physical networks are on this host: NAME:BRIDGE (a bridge that Nubo makes, for which the host is the gateway), NAME:=BRIDGE (a bridge that exists) or NAME:@INTERFACE (a spare interface).',
    }),
    resource_provider_bandwidths: Array(String(), {
      default: [],
      description:
        "What this host's physical networks carry, of which ports can be promised a part: NAME:EGRESS:INGRESS in kbit/s. None is named: servers whose ports have a minimum bandwidth find no host here. Pretended hosts carry 10 Gbit/s each way unless this says otherwise.",
    }),
    external_cidr: String({
      default: '172.24.4.0/24',
      pattern: '^[0-9.]+/[0-9]+$',
      description: 'Addresses of the network `public` that a new cloud starts with; the first is the gateway.',
    }),
    local_ip: String({ default: '', description: "Address of this host's end of tunnels; empty: no networks across hosts." }),
    vxlan_port: Integer({ default: 4789, description: 'UDP port of tunnels.' }),
    dhcp_lease_duration: Integer({
      default: 86400,
      minimum: 120,
      description: 'Seconds for which DHCP servers lease addresses.',
    }),
    vni: Range(1, 16777215, 'VNIs of vxlan networks.'),
    vlan: Range(1, 4094, 'VLAN tags.'),
    global_physnet_mtu: Integer({
      default: 1500,
      minimum: 68,
      maximum: 65535,
      description: 'MTU of the physical networks, in bytes.',
    }),
    max_fixed_ips_per_port: Integer({ default: 5, minimum: 1, description: 'Addresses of one port at most.' }),
    max_routes: Integer({ default: 30, description: 'Extra routes of one router at most.' }),
    max_subnet_host_routes: Integer({ default: 20, description: 'Host routes of one subnet at most.' }),
    max_dns_nameservers: Integer({ default: 5, description: 'Name servers of one subnet at most.' }),
    max_allowed_address_pair: Integer({ default: 10, description: 'Allowed address pairs of one port at most.' }),
    dns_domain: String({ default: 'openstacklocal', description: 'Domain of the names that DHCP gives to ports.' }),
    dns_forwarders: Array(String(), {
      default: [],
      description: 'Name servers that DHCP servers ask for names they do not know.',
    }),
    availability_zone: String({ default: 'nova', description: 'Availability zone of the network agents.' }),
    dhcp_agents_per_network: Integer({ default: 1, minimum: 1, description: 'Hosts that run the DHCP server of a network.' }),
    quota: Record(String(), Integer(), {
      default: {},
      description: 'Default limits by resource (network, port, …); -1 is no limit.',
    }),
  }),
  'Networking.',
)
