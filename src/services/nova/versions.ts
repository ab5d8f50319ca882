/**
 * Nova's microversions, 2.1 to 2.104, by name. A name is the minor number; `since(V.tags, …)` reads "from the version that brought tags".
 */
import type { Microversions } from '#kit/http/version.ts'

export const V = {
  /** The API of v2.0 with strict checks of what is sent. */
  base: 1,
  /** Key pairs have a type, ssh or x509; creating one answers 201, deleting one 204. */
  keypairType: 2,
  /** Administrators see more of a server (reservation, launch index, kernel, host name, user data), all see delete_on_termination. */
  extendedAttributes: 3,
  /** Fixed IPs say whether they are reserved. */
  fixedIpReserved: 4,
  /** Everybody may list servers by IPv6 address. */
  ip6Filter: 5,
  /** POST …/remote-consoles takes the place of four console actions. */
  remoteConsoles: 6,
  /** A public flavor refuses access entries. */
  publicFlavorAccess: 7,
  /** Consoles of type webmks. */
  mksConsole: 8,
  /** Servers say whether they are locked. */
  locked: 9,
  /** Administrators handle the key pairs of other users. */
  keypairUser: 10,
  /** Services can be forced down. */
  forcedDown: 11,
  /** Virtual interfaces show their network. */
  vifNetwork: 12,
  /** Server groups show project and user. */
  serverGroupOwner: 13,
  /** Evacuation finds out by itself about shared storage, and answers no password. */
  evacuateStorage: 14,
  /** Server groups of soft affinity and soft anti-affinity. */
  softAffinity: 15,
  /** Servers show the state of their host. */
  hostStatus: 16,
  /** A crash dump can be triggered. */
  crashDump: 17,
  /** The project may be left out of the URL. */
  projectOptional: 18,
  /** Servers have a description. */
  description: 19,
  /** Volumes attach to shelved servers. */
  shelvedVolumes: 20,
  /** Actions of deleted servers can be read. */
  deletedActions: 21,
  /** A live migration can be forced to complete. */
  forceComplete: 22,
  /** Migrations of a server can be listed and shown. */
  serverMigrations: 23,
  /** A live migration can be aborted. */
  abortMigration: 24,
  /** Live migration finds out by itself whether disks must be copied. */
  blockMigrationAuto: 25,
  /** Servers have tags. */
  tags: 26,
  /** The header OpenStack-API-Version is understood. */
  standardHeader: 27,
  /** A hypervisor's cpu_info is an object. */
  cpuInfoObject: 28,
  /** Evacuation asks the scheduler about the host, unless forced. */
  evacuateForce: 29,
  /** Live migration asks the scheduler about the host, unless forced. */
  liveMigrateForce: 30,
  /** Console tokens of all types can be looked up. */
  consoleTokens: 31,
  /** Networks and disks of a new server can be tagged. */
  deviceTags: 32,
  /** Hypervisors are listed in pages; disks lose their tags by mistake. */
  hypervisorPages: 33,
  /** Live migration checks in the background. */
  liveMigrateChecks: 34,
  /** Key pairs are listed in pages. */
  keypairPages: 35,
  /** Resources that only passed calls to other services are gone. */
  noProxies: 36,
  /** Networks must be given: a list, auto or none. */
  networksRequired: 37,
  /** An unknown status in a list's filter is refused. */
  statusFilter: 38,
  /** The image metadata proxy and its quota are gone. */
  noImageMetadata: 39,
  /** Usage is listed in pages. */
  usagePages: 40,
  /** Aggregates show their UUID. */
  aggregateUuid: 41,
  /** Device tags are back. */
  deviceTagsAgain: 42,
  /** os-hosts is gone. */
  noHosts: 43,
  /** Actions on fixed and floating IPs are gone, virtual interfaces too. */
  noIpActions: 44,
  /** Snapshots answer their image's id in the body. */
  imageIdInBody: 45,
  /** X-OpenStack-Request-ID is answered beside the older header. */
  requestIdHeader: 46,
  /** Servers show their flavor's values in place of a link. */
  embeddedFlavor: 47,
  /** Diagnostics have one form for all drivers. */
  diagnostics: 48,
  /** Interfaces and volumes can be tagged when attached. */
  attachTags: 49,
  /** Quota classes know server groups and forget networks. */
  quotaClassGroups: 50,
  /** Event volume-extended; users see the events of actions. */
  actionEvents: 51,
  /** A new server can have tags. */
  createTags: 52,
  /** Services and hypervisors are known by UUID. */
  serviceUuid: 53,
  /** A rebuild can change the key pair. */
  rebuildKey: 54,
  /** Flavors have a description. */
  flavorDescription: 55,
  /** A cold migration can name its host. */
  migrateHost: 56,
  /** No files are injected any more; a rebuild can change the user data. */
  noPersonality: 57,
  /** Actions are listed in pages. */
  actionPages: 58,
  /** Migrations are listed in pages and have a UUID. */
  migrationPages: 59,
  /** A volume can be attached to several servers. */
  multiattach: 60,
  /** Flavors show their extra specs. */
  flavorExtraSpecs: 61,
  /** Events of actions show their host. */
  eventHost: 62,
  /** Trusted image certificates. */
  trustedCerts: 63,
  /** A server group has one policy with rules. */
  groupRules: 64,
  /** A live migration can be aborted while it waits. */
  abortQueued: 65,
  /** Lists can be limited to changes before a time. */
  changesBefore: 66,
  /** A block device can name its volume's type. */
  bdmVolumeType: 67,
  /** Live migration and evacuation cannot be forced any more. */
  noForce: 68,
  /** Servers in a part of the cloud that is down are shown as far as they are known. */
  downCells: 69,
  /** Attached interfaces and volumes show their tags. */
  tagsShown: 70,
  /** A server shows its server groups. */
  serverGroupsShown: 71,
  /** Ports with resource requests can be used for new servers. */
  portResources: 72,
  /** A lock has a reason. */
  lockReason: 73,
  /** A new server can name its host and its hypervisor. */
  requestedHost: 74,
  /** Unknown query parameters are refused; a server looks the same in all answers. */
  cleanup: 75,
  /** Event power-update. */
  powerUpdate: 76,
  /** Unshelving can name a zone. */
  unshelveZone: 77,
  /** A server shows its NUMA topology. */
  topology: 78,
  /** delete_on_termination when a volume is attached. */
  attachDelete: 79,
  /** Migrations show user and project. */
  migrationOwner: 80,
  /** Images can be cached on the hosts of an aggregate. */
  imageCache: 81,
  /** Event accelerator-request-bound. */
  acceleratorBound: 82,
  /** More filters of lists are for everybody. */
  moreFilters: 83,
  /** Failed events of actions show details. */
  eventDetails: 84,
  /** delete_on_termination of an attached volume can be changed. */
  updateDelete: 85,
  /** Extra specs are checked. */
  extraSpecChecks: 86,
  /** Servers that boot from a volume can be rescued. */
  rescueVolume: 87,
  /** Hypervisors show no usage any more, but their uptime. */
  hypervisorSlim: 88,
  /** Volume attachments show attachment_id and bdm_uuid. */
  attachmentIds: 89,
  /** The host name can be set. */
  hostname: 90,
  /** Unshelving can name a host, pin and unpin the zone. */
  unshelveHost: 91,
  /** Key pairs must be imported; their names may hold @ and dots. */
  keypairImportOnly: 92,
  /** Servers that boot from a volume can be rebuilt. */
  rebuildVolume: 93,
  /** The host name may be fully qualified. */
  fqdn: 94,
  /** An evacuated server ends stopped. */
  evacuateStopped: 95,
  /** Servers show the zone they are pinned to. */
  pinnedZone: 96,
  /** File shares attach to servers. */
  shares: 97,
  /** Servers show their image's properties. */
  imageProperties: 98,
  /** Consoles of type spice-direct. */
  spiceDirect: 99,
  /** Servers show their scheduler hints. */
  schedulerHints: 100,
  /** Attaching a volume answers 202 without a body. */
  attachAsync: 101,
  /** Flavors are filtered by name, and lose rxtx_factor and disabled. */
  flavorName: 102,
  /** os-volumes_boot is gone. */
  noVolumesBoot: 103,
  /** The zone a server is pinned to can be changed. */
  updatePinnedZone: 104,
} as const

export const microversions: Microversions = {
  type: 'compute',
  legacyHeader: 'X-OpenStack-Nova-API-Version',
  major: 2,
  min: V.base,
  max: V.updatePinnedZone,
}
