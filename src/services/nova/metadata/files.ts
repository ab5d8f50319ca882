/**
 * What a guest is told of itself: the OpenStack tree (meta_data.json, network_data.json, user_data, vendor data) and the EC2 tree, as
 * paths with their content. The config drive holds the same as the metadata service answers.
 *
 * Formats: nova/api/metadata/base.py upstream and the schema of network_data.json in its documentation. Each dated version of the
 * OpenStack tree has what was added up to its date.
 */

import type { Server } from '../servers/store.ts'
import type { NicKept } from '../tables.ts'

const VERSIONS = [
  '2012-08-10',
  '2013-04-04',
  '2013-10-17',
  '2015-10-15',
  '2016-06-30',
  '2016-10-06',
  '2017-02-22',
  '2018-08-27',
  '2020-10-14',
  'latest',
] as const
type Version = (typeof VERSIONS)[number]
const since = (version: Version, first: Version): boolean => VERSIONS.indexOf(version) >= VERSIONS.indexOf(first)

const EC2_VERSIONS = [
  '1.0',
  '2007-01-19',
  '2007-03-01',
  '2007-08-29',
  '2007-10-10',
  '2007-12-15',
  '2008-02-01',
  '2008-09-01',
  '2009-04-04',
  'latest',
] as const

export { EC2_VERSIONS, VERSIONS as OPENSTACK_VERSIONS }

/** What metadata needs of a server. */
export type Subject = Pick<
  Server,
  | 'id'
  | 'name'
  | 'hostname'
  | 'project_id'
  | 'metadata'
  | 'availability_zone'
  | 'launch_index'
  | 'reservation_id'
  | 'key_name'
  | 'key_type'
  | 'public_key'
  | 'user_data'
  | 'nics'
  | 'build'
  | 'flavor'
  | 'image_ref'
  | 'seq'
  | 'root_device_name'
  | 'security_groups'
  | 'image'
  | 'created_at'
>

const fqdn = ({ hostname }: Subject, domain: string): string =>
  domain && !hostname.includes('.') ? `${hostname}.${domain}` : hostname

/** 512 bytes for the guest's random generator: other ones each time they are asked for. */
const randomSeed = (): string => Buffer.from(crypto.getRandomValues(new Uint8Array(512))).toString('base64')

/** openstack/VERSION/meta_data.json */
export function metaData(server: Subject, version: Version, domain: string, adminPassword?: string): Record<string, unknown> {
  const data: Record<string, unknown> = { uuid: server.id }
  if (Object.keys(server.metadata).length > 0) data.meta = server.metadata
  if (server.public_key !== null && server.key_name !== null) {
    data.public_keys = { [server.key_name]: server.public_key }
    if (since(version, '2013-04-04')) {
      data.keys = [{ name: server.key_name, type: server.key_type ?? 'ssh', data: server.public_key }]
    }
  }
  data.hostname = fqdn(server, domain)
  data.name = server.name
  data.launch_index = server.launch_index
  data.availability_zone = server.availability_zone ?? ''
  if (since(version, '2013-04-04')) data.random_seed = randomSeed()
  if (since(version, '2015-10-15')) data.project_id = server.project_id
  if (adminPassword !== undefined) data.admin_pass = adminPassword
  if (since(version, '2016-06-30')) data.devices = devicesOf(server)
  if (since(version, '2020-10-14')) data.dedicated_cpus = []
  const files = server.build.personality
  if (files.length > 0)
    data.files = files.map(({ path }, i) => ({ path, content_path: `/content/${String(i).padStart(4, '0')}` }))
  return data
}

/** Devices that the user tagged. */
function devicesOf(server: Subject): object[] {
  return server.nics
    .filter(nic => nic.tag !== null)
    .map(nic => ({ type: 'nic', bus: 'none', mac: nic.mac, tags: [nic.tag], vf_trusted: false }))
}

/** openstack/VERSION/network_data.json */
export function networkData(nics: readonly NicKept[]): object {
  const links = nics.map(nic => ({
    id: nic.tap,
    vif_id: nic.portId,
    type: 'bridge',
    mtu: nic.mtu,
    ethernet_mac_address: nic.mac,
  }))
  const networks: object[] = []
  const services = new Map<string, object>()
  for (const nic of nics) {
    for (const subnet of nic.subnets ?? []) {
      networks.push(networkOf(nic, subnet, networks.length))
      for (const address of subnet.dns) services.set(address, { type: 'dns', address })
    }
  }
  return { links, networks, services: [...services.values()] }
}

function networkOf(nic: NicKept, subnet: NonNullable<NicKept['subnets']>[number], number: number): object {
  const { version } = subnet
  const dhcp = subnet.dhcp
  const base = { id: `network${number}`, link: nic.tap, network_id: nic.networkId }
  if (dhcp) return { ...base, type: version === 4 ? 'ipv4_dhcp' : `ipv6_${subnet.ipv6Mode ?? 'dhcpv6-stateful'}` }
  const any = version === 4 ? { network: '0.0.0.0', netmask: '0.0.0.0' } : { network: '::', netmask: '::' }
  return {
    ...base,
    type: version === 4 ? 'ipv4' : 'ipv6',
    ip_address: subnet.address,
    netmask: subnet.netmask,
    routes: [
      ...(subnet.gateway ? [{ ...any, gateway: subnet.gateway }] : []),
      ...subnet.routes.map(r => ({ network: r.network, netmask: r.netmask, gateway: r.gateway })),
    ],
    services: subnet.dns.map(address => ({ type: 'dns', address })),
  }
}

const textOf = (value: unknown): string => JSON.stringify(value)

/** Every file of the OpenStack tree, by path without a slash in front. */
export function openstackTree(server: Subject, domain: string, adminPassword?: string): Map<string, Buffer> {
  const files = new Map<string, Buffer>()
  const put = (path: string, content: string | Buffer): void => void files.set(path, Buffer.from(content as string))
  for (const version of VERSIONS) {
    put(`openstack/${version}/meta_data.json`, textOf(metaData(server, version, domain, adminPassword)))
    if (server.user_data !== null) put(`openstack/${version}/user_data`, Buffer.from(server.user_data, 'base64'))
    if (since(version, '2013-10-17')) put(`openstack/${version}/vendor_data.json`, '{}')
    if (since(version, '2016-10-06')) put(`openstack/${version}/vendor_data2.json`, '{}')
    if (since(version, '2015-10-15')) put(`openstack/${version}/network_data.json`, textOf(networkData(server.nics)))
  }
  server.build.personality.forEach(({ contents }, i) => {
    put(`openstack/content/${String(i).padStart(4, '0')}`, Buffer.from(contents, 'base64'))
  })
  return files
}

const firstAddress = (nics: readonly NicKept[], type: 'fixed' | 'floating'): string =>
  nics.flatMap(nic => nic.addresses).find(a => a.type === type && a.version === 4)?.address ?? ''

const ec2Id = (kind: string, number: number): string => `${kind}-${number.toString(16).padStart(8, '0')}`

/** The EC2 tree of one version: nested names, whose leaves are text. */
export function ec2Data(server: Subject, domain: string): Record<string, unknown> {
  const fixed = firstAddress(server.nics, 'fixed')
  const data: Record<string, unknown> = {
    'ami-id': ec2Id('ami', 0),
    'ami-launch-index': String(server.launch_index),
    'ami-manifest-path': '',
    'block-device-mapping': { ami: 'sda', root: server.root_device_name ?? '/dev/vda' },
    hostname: fqdn(server, domain),
    'instance-action': 'none',
    'instance-id': ec2Id('i', server.seq),
    'instance-type': server.flavor.name,
    'local-hostname': fqdn(server, domain),
    'local-ipv4': fixed,
    placement: { 'availability-zone': server.availability_zone ?? '' },
    'public-hostname': fqdn(server, domain),
    'public-ipv4': firstAddress(server.nics, 'floating'),
    'reservation-id': server.reservation_id,
    'security-groups': server.security_groups.map(g => g.name).join('\n'),
  }
  if (server.public_key !== null && server.key_name !== null) {
    data['public-keys'] = { [`0=${server.key_name}`]: { 'openssh-key': server.public_key } }
  }
  return data
}

/** The files of a config drive: path → content in base64. */
export function configDriveFiles(server: Subject, adminPassword?: string, domain = ''): Record<string, string> {
  const files: Record<string, string> = {}
  for (const [path, content] of openstackTree(server, domain, adminPassword)) files[path] = content.toString('base64')
  const ec2 = ec2Data(server, domain)
  for (const version of ['2009-04-04', 'latest']) {
    files[`ec2/${version}/meta-data.json`] = Buffer.from(textOf(ec2)).toString('base64')
    if (server.user_data !== null) files[`ec2/${version}/user-data`] = server.user_data
  }
  return files
}
