/**
 * Which extra specs of a flavor are known, and what they may hold (checked from microversion 2.86 on). A spec outside the known
 * namespaces is the operator's own and passes.
 */
import { badRequest } from '#kit/fault.ts'
import { toBoolean } from '#kit/http/schema.ts'

interface Shape {
  int?: { min?: number; max?: number }
  bool?: true
  /** The whole value must match. */
  pattern?: string
  words?: readonly string[]
}

const TEXT: Shape = {}
const BOOL: Shape = { bool: true }
const atLeast = (min: number): Shape => ({ int: { min } })
const words = (...list: string[]): Shape => ({ words: list })
const CPUS: Shape = { pattern: '\\^?\\d+((-\\d+)?(,\\^?\\d+(-\\d+)?)?)*' }

const HW: Record<string, Shape> = {
  cpu_realtime: BOOL,
  cpu_realtime_mask: { pattern: '(\\^)?\\d+((-\\d+)?(,\\^?\\d+(-\\d+)?)?)*' },
  hide_hypervisor_id: BOOL,
  cpu_policy: words('dedicated', 'shared', 'mixed'),
  cpu_thread_policy: words('prefer', 'isolate', 'require'),
  emulator_threads_policy: words('isolate', 'share'),
  cpu_dedicated_mask: CPUS,
  mem_page_size: { pattern: '(large|small|any|\\d+([kKMGT]i?)?(b|bit|B)?)' },
  locked_memory: BOOL,
  numa_nodes: atLeast(1),
  'numa_cpus\\.\\d+': CPUS,
  'numa_mem\\.\\d+': atLeast(1),
  pci_numa_affinity_policy: words('required', 'preferred', 'legacy', 'socket'),
  cpu_sockets: atLeast(1),
  cpu_cores: atLeast(1),
  cpu_threads: atLeast(1),
  cpu_max_sockets: atLeast(1),
  cpu_max_cores: atLeast(1),
  cpu_max_threads: atLeast(1),
  boot_menu: BOOL,
  vif_multiqueue_enabled: BOOL,
  mem_encryption: BOOL,
  mem_encryption_model: words('amd-sev', 'amd-sev-es', 'amd-sev-snp'),
  pmem: { pattern: '([a-zA-Z0-9_]+(,)?)+' },
  pmu: BOOL,
  serial_port_count: atLeast(0),
  tpm_model: words('tpm-tis', 'tpm-crb'),
  tpm_version: words('1.2', '2.0'),
  tpm_secret_security: words('user', 'host', 'deployment'),
  watchdog_action: words('none', 'pause', 'poweroff', 'reset', 'disabled'),
  viommu_model: words('intel', 'smmuv3', 'virtio', 'auto'),
  virtio_packed_ring: BOOL,
  sound_model: words('sb16', 'es1370', 'pcspk', 'ac97', 'ich6', 'ich9', 'usb', 'virtio'),
  usb_model: words('qemu-xhci', 'nec-xhci', 'piix3-uhci', 'none'),
  redirected_usb_ports: { int: { min: 0, max: 15 } },
  maxphysaddr_mode: words('passthrough', 'emulate'),
  maxphysaddr_bits: atLeast(0),
  ephemeral_encryption: BOOL,
  ephemeral_encryption_format: words('plain', 'luks', 'luksv2'),
}

const QUOTA: Record<string, Shape> = {
  cpu_shares: atLeast(0),
  cpu_period: atLeast(0),
  cpu_quota: { int: {} },
  'disk_(read|write|total)_(bytes|iops)_sec': atLeast(0),
  'vif_(inbound|outbound)_(average|peak|burst)': atLeast(0),
  '(cpu|memory|disk_io|vif)_limit': atLeast(0),
  '(cpu|memory|disk_io|vif)_reservation': { int: {} },
  '(cpu|memory|disk_io|vif)_shares_level': words('custom', 'high', 'normal', 'low'),
  '(cpu|memory|disk_io|vif)_shares_share': atLeast(0),
}

const GROUP = '([a-zA-Z0-9_-]{1,64})?'
const PLAIN =
  'id|uuid|service_id|host|vcpus|memory_mb|local_gb|vcpus_used|memory_mb_used|local_gb_used|hypervisor_type|hypervisor_version'
const CAPABILITIES = `${PLAIN}|hypervisor_hostname|free_ram_mb|free_disk_gb|current_workload|running_vms|disk_available_least|host_ip|mapped|cpu_allocation_ratio|ram_allocation_ratio|disk_allocation_ratio|total_usable_ram_mb|total_usable_disk_gb|disk_mb_used|free_disk_mb|vcpus_total|num_instances|num_io_ops|failed_builds|aggregates|cell_uuid|updated`

/** Namespace (a pattern) → names in it (patterns) → what the value may be. */
const KNOWN: Record<string, Record<string, Shape>> = {
  accel: { device_profile: TEXT },
  aggregate_instance_extra_specs: { '.+': TEXT },
  capabilities: {
    [CAPABILITIES]: TEXT,
    '(cpu_info|metrics|stats|numa_topology|supported_hv_specs|nodename|pci_stats|supported_instances|limits|instances)(:\\w+)*':
      TEXT,
  },
  hw: HW,
  hw_rng: { allowed: BOOL, rate_bytes: atLeast(0), rate_period: atLeast(0) },
  hw_video: { ram_max_mb: atLeast(0) },
  os: { secure_boot: words('disabled', 'required'), vif_dpdk_ring_count: atLeast(0) },
  pci_passthrough: { alias: TEXT },
  quota: QUOTA,
  [`resources${GROUP}`]: { '[A-Z0-9_]+': { int: {} } },
  [`trait${GROUP}`]: { '[A-Z0-9_]+': words('required', 'forbidden') },
  vmware: {
    hw_version: TEXT,
    storage_policy: TEXT,
    'boot_(mode|retry)': TEXT,
    'tools_[a-z_]+': TEXT,
  },
}

const WITHOUT_NAMESPACE: Record<string, Shape> = { group_policy: words('isolate', 'none'), hide_hypervisor_id: BOOL }

const whole = (pattern: string, text: string): boolean => new RegExp(`^(?:${pattern})$`, 'u').test(text)

/** Throws badRequest for a known spec whose value is wrong, and for an unknown one in a known namespace. */
export function checkExtraSpec(name: string, value: string): void {
  const colon = name.indexOf(':')
  if (colon < 0) {
    const shape = WITHOUT_NAMESPACE[name]
    if (shape) checkValue(shape, value)
    return
  }
  const namespace = Object.entries(KNOWN).find(([pattern]) => whole(pattern, name.slice(0, colon)))
  if (!namespace) return
  const found = Object.entries(namespace[1]).find(([pattern]) => whole(pattern, name.slice(colon + 1)))
  if (!found) throw badRequest(`Validation failed; extra spec '${name}' does not appear to be a valid extra spec.`)
  checkValue(found[1], value)
}

function checkValue(shape: Shape, value: string): void {
  if (shape.int) {
    const number = /^\s*[+-]?\d+\s*$/.test(value) ? Number(value) : Number.NaN
    if (Number.isNaN(number)) throw badRequest(`Validation failed; '${value}' is not a valid integer value.`)
    const { min, max } = shape.int
    if (max !== undefined && number > max) {
      throw badRequest(`Validation failed; '${value}' is greater than the max value of '${max}'.`)
    }
    if (min !== undefined && number < min) {
      throw badRequest(`Validation failed; '${value}' is less than the min value of '${min}'.`)
    }
  } else if (shape.bool) {
    if (toBoolean(value.trim().toLowerCase()) === undefined) {
      throw badRequest(`Validation failed; '${value}' is not a valid boolean-like value.`)
    }
  } else if (shape.pattern) {
    if (!whole(shape.pattern, value)) throw badRequest(`Validation failed; '${value}' is not of the format '${shape.pattern}'.`)
  } else if (shape.words && !shape.words.includes(value)) {
    throw badRequest(`Validation failed; '${value}' is not one of: ${shape.words.join(', ')}.`)
  }
}
