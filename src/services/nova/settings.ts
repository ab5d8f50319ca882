/** Nova's section of the configuration file. */
import { Boolean as Bool, Integer, Array as List, Number as Num, Object as Obj, String as Text } from 'typebox'
import { settings } from '#kit/config.ts'

export const novaSettings = settings(
  'nova',
  Obj({
    max_limit: Integer({ default: 1000, minimum: 1, description: 'Most items in one page of a list.' }),
    default_availability_zone: Text({ default: 'nova', description: 'Zone of hosts that no aggregate puts into another.' }),
    internal_service_availability_zone: Text({ default: 'internal', description: 'Zone of services that are not compute.' }),
    default_schedule_zone: Text({ default: '', description: 'Zone of servers that name none; empty: any.' }),
    cpu_allocation_ratio: Num({ default: 4, minimum: 0, description: 'Virtual CPUs for each CPU of a host.' }),
    ram_allocation_ratio: Num({ default: 1, minimum: 0, description: 'Memory given out for each MiB of a host.' }),
    disk_allocation_ratio: Num({ default: 1, minimum: 0, description: 'Disk given out for each GiB of a host.' }),
    reserved_host_cpus: Integer({ default: 0, minimum: 0, description: 'CPUs of each host that servers never get.' }),
    reserved_host_memory_mb: Integer({
      default: 512,
      minimum: 0,
      description: 'Memory of each host, in MiB, that servers never get.',
    }),
    reserved_host_disk_mb: Integer({ default: 0, minimum: 0, description: 'Disk of each host, in MiB, that servers never get.' }),
    service_down_time: Integer({ default: 60, minimum: 1, description: 'Seconds of silence after which a host counts as down.' }),
    max_attempts: Integer({ default: 3, minimum: 1, description: 'Hosts that are tried, one after another, for a server.' }),
    host_subset_size: Integer({ default: 1, minimum: 1, description: 'The host is drawn from so many best ones.' }),
    enabled_filters: List(Text(), {
      default: [
        'ComputeFilter',
        'ComputeCapabilitiesFilter',
        'ImagePropertiesFilter',
        'ServerGroupAntiAffinityFilter',
        'ServerGroupAffinityFilter',
        'SameHostFilter',
        'DifferentHostFilter',
      ],
      description: 'Filters of the scheduler, in the order in which they are asked.',
    }),
    isolated_hosts: List(Text(), { default: [], description: 'Hosts for isolated images (IsolatedHostsFilter).' }),
    isolated_images: List(Text(), { default: [], description: 'Images that run on isolated hosts (IsolatedHostsFilter).' }),
    restrict_isolated_hosts_to_isolated_images: Bool({ default: true, description: 'Isolated hosts take isolated images only.' }),
    max_io_ops_per_host: Integer({
      default: 8,
      minimum: 1,
      description: 'Servers being built or moved on a host (IoOpsFilter).',
    }),
    max_instances_per_host: Integer({ default: 50, minimum: 1, description: 'Servers on a host (NumInstancesFilter).' }),
    vif_plugging_timeout: Integer({
      default: 300,
      minimum: 0,
      description: "Seconds that a new server's ports may take to be wired; 0 does not wait.",
    }),
    shelved_offload_time: Integer({
      default: 0,
      minimum: -1,
      description: 'Seconds after which a shelved server leaves its host; -1 for never.',
    }),
    reclaim_instance_interval: Integer({
      default: 0,
      minimum: 0,
      description: 'Seconds for which a deleted server can be restored; 0 deletes at once.',
    }),
    resize_confirm_window: Integer({
      default: 0,
      minimum: 0,
      description: 'Seconds after which a resize is confirmed by itself; 0 for never.',
    }),
    enable_instance_password: Bool({ default: true, description: 'Answers tell the password of a new server.' }),
    allow_resize_to_same_host: Bool({ default: true, description: 'A resize may stay on its host.' }),
    console_token_ttl: Integer({ default: 600, minimum: 1, description: 'Seconds for which a console can be opened.' }),
    force_config_drive: Bool({ default: false, description: 'Every server gets a config drive.' }),
    dhcp_domain: Text({ default: 'novalocal', description: 'Domain of the host names that metadata tells guests.' }),
    deleted_retention_days: Integer({
      default: 30,
      minimum: 0,
      description: 'Days for which deleted servers can still be listed.',
    }),
    quota: Obj(
      {
        instances: Integer({ default: 10, minimum: -1, description: 'Servers of a project; -1 for any number.' }),
        cores: Integer({ default: 20, minimum: -1, description: 'Virtual CPUs of a project.' }),
        ram: Integer({ default: 51_200, minimum: -1, description: 'Memory of a project, in MiB.' }),
        metadata_items: Integer({ default: 128, minimum: -1, description: 'Metadata items of a server.' }),
        injected_files: Integer({ default: 5, minimum: -1, description: 'Injected files of a server.' }),
        injected_file_content_bytes: Integer({ default: 10_240, minimum: -1, description: 'Bytes of an injected file.' }),
        injected_file_path_bytes: Integer({ default: 255, minimum: -1, description: "Bytes of an injected file's path." }),
        key_pairs: Integer({ default: 100, minimum: -1, description: 'Key pairs of a user.' }),
        server_groups: Integer({ default: 10, minimum: -1, description: 'Server groups of a project.' }),
        server_group_members: Integer({ default: 10, minimum: -1, description: 'Servers of a server group.' }),
      },
      { description: 'Quotas where neither the project nor its class says otherwise.' },
    ),
  }),
  'Compute.',
)
