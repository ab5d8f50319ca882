// What the controller tells one host's network agent, and what the agent answers. Types only: both sides import this file.
//
// Everything here is a full statement of "this should be on this host", never a change. Ids are UUIDs; MAC addresses are lower case with
// colons; addresses and prefixes are in canonical text; order means nothing unless a comment says so. The agent finds out by itself
// what differs from what is there.

/** All that should be on one host, as of `revision`. */
export interface NetDesired {
  /** Grows with each change that could matter to this host; comes back in the report. */
  revision: number
  /** Every network that has a port, a DHCP server or a router interface on this host. */
  networks: DesiredNetwork[]
  /** Ports bound to this host: guests', and those of DHCP servers and routers that run here. */
  ports: DesiredPort[]
  /** The security groups that `ports` use. */
  securityGroups: DesiredSecurityGroup[]
  /** The remote groups and address groups that the rules in `securityGroups` name. */
  addressSets: DesiredAddressSet[]
  /** Routers that run on this host. */
  routers: DesiredRouter[]
}

export interface DesiredNetwork {
  id: string
  type: 'flat' | 'vlan' | 'vxlan' | 'local'
  /** flat and vlan: a name that this host's configuration maps to a bridge or an interface. */
  physicalNetwork: string | null
  /** vlan: tag; vxlan: VNI. */
  segmentationId: number | null
  mtu: number
  subnets: DesiredSubnet[]
  /** vxlan: the other hosts that have ports of this network, with what lives there. Empty on a single machine. */
  peers: DesiredPeer[]
  /** The DHCP server of this network on this host, if it runs here. */
  dhcp: DesiredDhcp | null
}

export interface DesiredSubnet {
  id: string
  cidr: string
  ipVersion: 4 | 6
  gatewayIp: string | null
  enableDhcp: boolean
  dnsServers: string[]
  hostRoutes: { destination: string; nexthop: string }[]
  /** slaac, dhcpv6-stateful or dhcpv6-stateless; null where another router announces. */
  ipv6RaMode: string | null
  ipv6AddressMode: string | null
  /** A router of ours holds `gatewayIp`, so guests reach metadata through it. Otherwise DHCP hands out a route through the DHCP port. */
  routed: boolean
}

export interface DesiredPeer {
  /** Address of the far host's tunnel end. */
  address: string
  ports: { mac: string; ips: string[] }[]
}

export interface DesiredDhcp {
  /** A port of this network in `ports`, whose addresses the server has. */
  portId: string
  /** Domain of host names, e.g. 'openstacklocal'. */
  domain: string
  /** Serve metadata at 169.254.169.254 from this server's namespace. */
  metadata: boolean
  /** Every port of the network that gets its addresses by DHCP or its name by DNS, wherever it runs. */
  hosts: DesiredDhcpHost[]
  /** Name servers to which the DHCP server forwards what it does not know. */
  forwarders: string[]
}

export interface DesiredDhcpHost {
  portId: string
  mac: string
  /** Without domain, e.g. 'host-10-0-0-5' or the port's dns_name. */
  hostname: string
  fixedIps: DesiredAddress[]
  /** extra_dhcp_opts: a dnsmasq option name or a number as text. */
  options: { name: string; value: string; ipVersion: 4 | 6 }[]
  /** The server or other device behind the port: what metadata is answered about. */
  deviceId: string
}

export interface DesiredAddress {
  subnetId: string
  ip: string
}

export interface DesiredPort {
  id: string
  networkId: string
  mac: string
  fixedIps: DesiredAddress[]
  /** ip may be a prefix. */
  allowedPairs: { ip: string; mac: string }[]
  /** False: no filter at all, whatever `securityGroups` says. */
  portSecurity: boolean
  securityGroups: string[]
  /** 'compute:…' is a guest with a tap of its own; 'network:dhcp', 'network:router_interface', 'network:router_gateway' are made by the agent. */
  deviceOwner: string
  deviceId: string
  adminStateUp: boolean
  /** Carried by another guest's port under this VLAN tag; null (or absent): it has a tap of its own. */
  subport?: { parentId: string; tag: number } | null
  /** Limits and marks of a guest's traffic; null (or absent): none. */
  qos?: DesiredQos | null
}

/** As the guest sees it: egress is what it sends. */
export interface DesiredQos {
  egress: DesiredLimits
  ingress: DesiredLimits
  /** The DSCP that what it sends is marked with. */
  dscp: number | null
}

export interface DesiredLimits {
  /** kbit/s, and how many kbit may go at once. */
  bandwidth: { kbps: number; burst: number } | null
  /** Packets per second, and how many may go at once. */
  packets: { rate: number; burst: number } | null
}

export interface DesiredSecurityGroup {
  id: string
  /** False: replies need rules of their own. */
  stateful: boolean
  rules: DesiredRule[]
}

/** Allows; what no rule allows is dropped. */
export interface DesiredRule {
  direction: 'ingress' | 'egress'
  ipVersion: 4 | 6
  /** IP protocol number; null is any. */
  protocol: number | null
  /** tcp, udp, udplite, sctp, dccp: port range. icmp, icmpv6: type and code. null is any. */
  portMin: number | null
  portMax: number | null
  /** Only from (ingress) or to (egress) this prefix, or the addresses of this set; null is anywhere. */
  remote: { prefix: string } | { set: string } | null
}

/** Members of a remote group (all their addresses, on any host) or of an address group. */
export interface DesiredAddressSet {
  id: string
  /** Addresses or prefixes of both versions. */
  addresses: string[]
}

export interface DesiredRouter {
  id: string
  interfaces: DesiredRouterPort[]
  gateway: (DesiredRouterPort & { gatewayIps: string[]; enableSnat: boolean }) | null
  floatingIps: { id: string; floating: string; fixed: string }[]
  /** Floating ports forwarded to a fixed address; ranges are as long as each other. */
  portForwardings: DesiredPortForwarding[]
  /** Extra routes; several next hops of one destination share the load. */
  routes: { destination: string; nexthop: string }[]
  /** Serve metadata at 169.254.169.254 from this router; who asks is looked up here by source address. */
  metadata: DesiredMetadataGuest[] | null
  /** What of the traffic through the gateway is counted; absent: nothing. IPv4, as are all counters of a router. */
  meters?: DesiredMeter[]
  /** What goes through outer addresses at most: the gateway's and floating ones. IPv4, as is all that a router translates. */
  limits?: { ip: string; egress: DesiredLimits; ingress: DesiredLimits }[]
  /** Which connections are read along for those that they arrange; absent: none. */
  helpers?: DesiredHelper[]
}

export interface DesiredHelper {
  /** ftp, tftp, sip, … */
  helper: string
  protocol: 'tcp' | 'udp'
  port: number
}

export interface DesiredMeter {
  id: string
  /** ingress: from the outside. Addresses are those of guests, not floating ones. */
  rules: { direction: 'ingress' | 'egress'; excluded: boolean; source: string | null; destination: string | null }[]
}

export interface DesiredPortForwarding {
  id: string
  floating: string
  protocol: 'tcp' | 'udp'
  externalMin: number
  externalMax: number
  fixed: string
  internalMin: number
  internalMax: number
}

/** A router's leg. The port is in `ports` too. */
export interface DesiredRouterPort {
  portId: string
  networkId: string
  addresses: { ip: string; prefixLength: number; subnetId: string }[]
}

export interface DesiredMetadataGuest {
  ip: string
  networkId: string
  portId: string
  deviceId: string
}

/** How it went: for everything in the desired state of `revision` (`full`), or for the ports alone that changed since. */
export interface NetReport {
  revision: number
  full: boolean
  /** ACTIVE: wired, rules in force. BUILD: bound here, but its tap has not appeared. DOWN: admin_state_up is false or the wiring failed. */
  ports: { id: string; status: 'ACTIVE' | 'BUILD' | 'DOWN' }[]
  routers: { id: string; status: 'ACTIVE' | 'ERROR' }[]
  floatingIps: { id: string; status: 'ACTIVE' | 'DOWN' | 'ERROR' }[]
  dhcp: { networkId: string; status: 'ACTIVE' | 'ERROR' }[]
  /** What could not be done, in the tool's own words. Empty when the host is as desired. */
  errors: NetError[]
}

export interface NetError {
  kind: 'network' | 'port' | 'security' | 'dhcp' | 'router' | 'metadata' | 'host'
  /** Of the network, port or router; null when it is the host's. */
  id: string | null
  message: string
}

export interface Bandwidth {
  egress: number
  ingress: number
}

/** What this host can do for networks, as probed. */
export interface NetFacts {
  /** Link types and features that the kernel has, by name: bridge, veth, vxlan, vlan, tun, bridge-netfilter, vlan-filtering, … */
  features: Record<string, boolean>
  /** Versions of the tools; null where a tool is missing. */
  tools: Record<string, string | null>
  /** What keeps networks from working here, in words with what to do; empty when all is well. */
  problems: string[]
  /** Address of this host's tunnel end; null: no overlay networks across hosts. */
  overlayAddress: string | null
  /** Names of physical networks with what they map to. */
  physicalNetworks: Record<string, string>
  /** What physical networks carry each way, in kbit/s, of which ports can be promised a part; absent: nothing is promised. */
  bandwidths?: Record<string, Bandwidth>
}
