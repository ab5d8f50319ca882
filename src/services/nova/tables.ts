/** Nova's tables. Everything that is only shown, never searched, is jsonb. */
import type { Generated } from '#kit/db/index.ts'
import type { Power } from './spec.ts'

export interface FlavorsTable {
  /** The flavorid of the API. */
  id: string
  /** In the order of creation: upstream's inner id, a sort key. */
  seq: Generated<number>
  name: string
  vcpus: number
  memory_mb: number
  root_gb: number
  ephemeral_gb: number
  swap_mb: number
  rxtx_factor: number
  is_public: boolean
  disabled: Generated<boolean>
  description: string | null
  extra_specs: Generated<Record<string, string>>
  created_at: Generated<Date>
  updated_at: Date | null
}

export interface FlavorAccessTable {
  flavor_id: string
  project_id: string
}

export interface KeypairsTable {
  id: Generated<number>
  user_id: string
  name: string
  type: 'ssh' | 'x509'
  fingerprint: string
  public_key: string
  created_at: Generated<Date>
}

/** The part of a flavor that a server keeps: the flavor may change or go. */
export interface FlavorKept {
  id: string
  name: string
  vcpus: number
  memory_mb: number
  root_gb: number
  ephemeral_gb: number
  swap_mb: number
  rxtx_factor: number
  extra_specs: Record<string, string>
}

/** What a server keeps of its image. */
export interface ImageKept {
  id: string
  name: string | null
  diskFormat: string
  containerFormat: string | null
  size: number | null
  minDisk: number
  minRam: number
  checksum?: { algorithm: 'sha512' | 'sha256' | 'md5'; hex: string }
  properties: Record<string, string>
}

/** An address of a server, as the API's `addresses` needs it. */
export interface AddressKept {
  address: string
  version: 4 | 6
  type: 'fixed' | 'floating'
  mac: string
}
/** One port of a server with what views, metadata and the guest need of it. Kept right in the transactions that change the port. */
export interface NicKept {
  portId: string
  networkId: string
  network: string
  mac: string
  mtu: number
  tap: string
  tag: string | null
  /** Nova made the port and deletes it with the server. */
  ours: boolean
  addresses: AddressKept[]
  /** For the guest's own set-up (network_data.json). */
  subnets?: SubnetKept[]
}

/** How a guest finds its address on one subnet of a port. */
export interface SubnetKept {
  version: 4 | 6
  dhcp: boolean
  /** How IPv6 addresses are found: `slaac`, `dhcpv6-stateful`, `dhcpv6-stateless`. */
  ipv6Mode: string | null
  address: string
  netmask: string
  gateway: string | null
  dns: string[]
  routes: { network: string; netmask: string; gateway: string }[]
}

export interface FaultKept {
  code: number
  message: string
  details: string | null
  created: string
}

/** A network asked for at creation. */
export interface NetworkAsked {
  network?: string
  port?: string
  fixedIp?: string
  tag?: string
}

/** A disk that lives on the host, beside the root disk. */
export interface LocalDisk {
  kind: 'blank' | 'swap'
  /** GiB, or MiB for swap. */
  size: number
  format: string | null
  deviceName: string | null
  bus: string | null
  bootIndex: number | null
  tag: string | null
}

/** What is needed to build the guest and is never searched for. */
export interface BuildAsked {
  networks: NetworkAsked[] | 'auto' | 'none'
  securityGroups: string[]
  disks: LocalDisk[]
  hints: Record<string, unknown>
  forcedHost: string | null
  forcedNode: string | null
  requestedHost: string | null
  requestedNode: string | null
  personality: { path: string; contents: string }[]
  /** Disks' bus and device type of the boot disk, when block_device_mapping_v2 says so. */
  root?: { bus: string | null; deviceType: string | null; tag: string | null }
}

/** Where a server was, while a resize or migration waits for confirmation. */
export interface ResizeKept {
  migrationId: number
  /** Under which the migration holds the room there. */
  uuid: string
  host: string
  node: string
  zone: string
  flavor: FlavorKept
  vmState: string
  diskConfig: string
}

export interface ServersTable {
  id: string
  seq: Generated<number>
  name: string
  project_id: string
  user_id: string
  vm_state: string
  task_state: string | null
  /** As upstream counts: 0 unknown, 1 running, 3 paused, 4 off, 6 crashed, 7 suspended. */
  power_state: Generated<number>
  /** What the guest should be. */
  wanted_power: Generated<Power>
  host: string | null
  node: string | null
  /** The zone of the host, or the asked one before there is a host. */
  availability_zone: string | null
  pinned_zone: string | null
  flavor_id: string
  flavor: FlavorKept
  /** For quotas. */
  vcpus: number
  memory_mb: number
  image_ref: string | null
  image: ImageKept | null
  key_name: string | null
  key_type: string | null
  public_key: string | null
  user_data: string | null
  /** What the caller asked: true, false, or null for nothing. */
  config_drive: boolean
  metadata: Generated<Record<string, string>>
  tags: Generated<string[]>
  description: string | null
  hostname: string
  /** `owner` or `admin`. */
  locked_by: string | null
  locked_reason: string | null
  access_ip_v4: string | null
  access_ip_v6: string | null
  disk_config: string
  progress: Generated<number>
  launch_index: number
  reservation_id: string
  root_device_name: string | null
  trusted_certs: string[] | null
  group_id: string | null
  build: BuildAsked
  nics: Generated<NicKept[]>
  security_groups: Generated<{ id: string; name: string }[]>
  fault: FaultKept | null
  resize: ResizeKept | null
  /** The image of a shelved server. */
  shelved_image: string | null
  rescue: { image: ImageKept; password: string } | null
  /** Encrypted by the guest for the owner's key (os-server-password). */
  password: string | null
  /** Grows with each change of what the guest should be. */
  revision: Generated<number>
  created_at: Generated<Date>
  updated_at: Generated<Date>
  launched_at: Date | null
  terminated_at: Date | null
  /** Set while a soft-deleted server waits, and on rows of deleted servers. */
  deleted_at: Date | null
}

/** An event of an action. */
export interface ActionEvent {
  event: string
  start_time: string
  finish_time: string | null
  result: 'Success' | 'Error' | null
  traceback: string | null
  host: string | null
  details: string | null
}

export interface ActionsTable {
  seq: Generated<number>
  server_id: string
  request_id: string
  action: string
  project_id: string | null
  user_id: string | null
  message: string | null
  start_time: Generated<Date>
  updated_at: Generated<Date>
  finish_time: Date | null
  events: Generated<ActionEvent[]>
}

export interface QuotasTable {
  project_id: string
  user_id: string
  resource: string
  hard_limit: number
}
export interface QuotaClassesTable {
  class_name: string
  resource: string
  hard_limit: number
}
export interface ServicesTable {
  id: string
  seq: Generated<number>
  /** The name of the daemon: `nova-compute`. */
  program: string
  host: string
  disabled: Generated<boolean>
  disabled_reason: string | null
  forced_down: Generated<boolean>
  created_at: Generated<Date>
  updated_at: Date | null
  last_seen: Date | null
}

export interface HypervisorsTable {
  id: string
  seq: Generated<number>
  host: string
  hypervisor_hostname: string
  hypervisor_type: string
  hypervisor_version: number
  host_ip: string | null
  vcpus: number
  memory_mb: number
  disk_gb: number
  inventory: object
  updated_at: Generated<Date>
}

export interface AggregatesTable {
  id: Generated<number>
  uuid: string
  name: string
  /** `availability_zone` is one of it. */
  metadata: Generated<Record<string, string>>
  hosts: Generated<string[]>
  created_at: Generated<Date>
  updated_at: Date | null
}

export interface ServerGroupsTable {
  id: string
  seq: Generated<number>
  name: string
  project_id: string
  user_id: string
  policy: string
  rules: Generated<Record<string, number>>
  created_at: Generated<Date>
}

export interface MigrationsTable {
  id: Generated<number>
  uuid: string
  server_id: string
  project_id: string
  user_id: string
  migration_type: string
  status: string
  source_compute: string | null
  source_node: string | null
  dest_compute: string | null
  dest_node: string | null
  dest_host: string | null
  old_flavor: FlavorKept | null
  new_flavor: FlavorKept | null
  memory_total: number | null
  memory_processed: number | null
  memory_remaining: number | null
  disk_total: number | null
  disk_processed: number | null
  disk_remaining: number | null
  created_at: Generated<Date>
  updated_at: Generated<Date>
}

export interface ConsoleTokensTable {
  /** SHA-256 of the token, in hex. */
  hash: string
  server_id: string
  host: string
  kind: string
  console_type: string
  created_at: Generated<Date>
  expires_at: Date
}

declare module '#kit/db/index.ts' {
  interface Tables {
    'nova.flavors': FlavorsTable
    'nova.flavor_access': FlavorAccessTable
    'nova.keypairs': KeypairsTable
    'nova.servers': ServersTable
    'nova.deleted_servers': ServersTable
    'nova.actions': ActionsTable
    'nova.quotas': QuotasTable
    'nova.quota_classes': QuotaClassesTable
    'nova.services': ServicesTable
    'nova.hypervisors': HypervisorsTable
    'nova.aggregates': AggregatesTable
    'nova.server_groups': ServerGroupsTable
    'nova.migrations': MigrationsTable
    'nova.console_tokens': ConsoleTokensTable
  }
}
