// Router advertisements of one router: radvd's configuration. Pure.
import type { DesiredNetwork, DesiredRouter, DesiredSubnet } from '../desired.ts'
import { routerLink } from '../names.ts'

/** radvd.conf for the legs whose subnets want advertisements; null where none does. */
export function radvdConf(router: DesiredRouter, networks: ReadonlyMap<string, DesiredNetwork>): string | null {
  const parts = router.interfaces.flatMap(leg => {
    const network = networks.get(leg.networkId)
    const subnets = leg.addresses.flatMap(
      address =>
        network?.subnets.filter(one => one.id === address.subnetId && one.ipVersion === 6 && one.ipv6RaMode !== null) ?? [],
    )
    return network && subnets.length > 0 ? [interfacePart(routerLink(leg.portId), network.mtu, subnets)] : []
  })
  return parts.length === 0 ? null : parts.join('')
}

function interfacePart(link: string, mtu: number, subnets: DesiredSubnet[]): string {
  const managed = subnets.some(subnet => subnet.ipv6RaMode === 'dhcpv6-stateful')
  const other = subnets.some(subnet => subnet.ipv6RaMode === 'dhcpv6-stateless')
  const servers = [...new Set(subnets.flatMap(subnet => subnet.dnsServers))].filter(ip => ip !== '::')
  return `interface ${link} {
  AdvSendAdvert on;
  MinRtrAdvInterval 30;
  MaxRtrAdvInterval 100;
  AdvLinkMTU ${mtu};
${managed ? '  AdvManagedFlag on;\n' : ''}${other ? '  AdvOtherConfigFlag on;\n' : ''}${servers.length > 0 ? `  RDNSS ${servers.slice(0, 3).join(' ')} {};\n` : ''}${subnets.map(prefixPart).join('')}};
`
}

function prefixPart(subnet: DesiredSubnet): string {
  return `  prefix ${subnet.cidr} {
    AdvOnLink on;
    AdvAutonomous ${subnet.ipv6RaMode === 'dhcpv6-stateful' ? 'off' : 'on'};
  };
`
}
