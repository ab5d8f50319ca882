/** What `/info` publishes: a section for each step that is in the pipeline, with the limits a client must know. */
import type { Site } from './site.ts'

/** The sections for a site. */
export function siteInfo(site: Site): Record<string, unknown> {
  const { cluster, settings } = site
  const on = (condition: boolean, section: Record<string, unknown>): Record<string, unknown> => (condition ? section : {})
  return {
    swift: {
      version: '2.38.0',
      strict_cors_mode: settings.strictCors,
      ...cluster.limits,
      allow_account_management: false,
      account_autocreate: cluster.autocreate,
      policies: cluster.policies
        .filter(policy => !policy.deprecated)
        .map(policy => ({
          name: policy.name,
          aliases: [policy.name, ...policy.aliases].join(', '),
          ...(policy.default ? { default: true } : {}),
        })),
    },
    slo: {
      max_manifest_segments: settings.segmentLimits.maxManifestSegments,
      max_manifest_size: settings.segmentLimits.maxManifestSize,
      min_segment_size: settings.segmentLimits.minSegmentSize,
      yield_frequency: 10,
      allow_async_delete: true,
    },
    dlo: { max_segments: 10000 },
    tempurl: {
      methods: settings.tempurlMethods,
      incoming_remove_headers: ['x-timestamp', 'x-open-expired'],
      incoming_allow_headers: [],
      outgoing_remove_headers: ['x-object-meta-*'],
      outgoing_allow_headers: ['x-object-meta-public-*'],
      allowed_digests: settings.digests,
      deprecated_digests: ['sha1'],
    },
    formpost: { allowed_digests: settings.digests, deprecated_digests: ['sha1'] },
    bulk_upload: { max_containers_per_extraction: settings.bulk.maxExtract, max_failed_extractions: settings.bulk.maxFailed },
    bulk_delete: { max_deletes_per_request: settings.bulk.maxDeletes, max_failed_deletes: settings.bulk.maxFailed },
    staticweb: {},
    symlink: { symloop_max: 2, static_links: true },
    versioned_writes: { allowed_flags: ['x-versions-location', 'x-history-location'] },
    object_versioning: {},
    account_quotas: {},
    container_quotas: {},
    container_sync: {
      realms: Object.fromEntries(
        settings.realms.map(realm => [
          realm.name,
          { clusters: realmClusters(realm.clusters, realm.name, settings.currentRealm) },
        ]),
      ),
    },
    crossdomain: {},
    ...on(settings.tempauth !== null, { tempauth: { account_acls: true } }),
    ...on(settings.keystone !== null, { keystoneauth: {} }),
    ...on(settings.accountRate > 0 || settings.containerRates.length > 0, {
      ratelimit: {
        account_ratelimit: settings.accountRate,
        container_ratelimits: settings.containerRates,
        container_listing_ratelimits: [],
        max_sleep_time_seconds: 60,
      },
    }),
    ...on(settings.storageDomain !== null, { domain_remap: { default_reseller_prefix: settings.prefixes[0].replace(/_$/, '') } }),
    ...on(settings.cnameLookup, { cname_lookup: { lookup_depth: 1 } }),
    ...on(settings.etagQuoter, { etag_quoter: { enable_by_default: true } }),
    ...on(settings.readOnly, { read_only: {} }),
    ...on(settings.nameCheck !== null, {
      name_check: {
        maximum_length: settings.nameCheck?.maximumLength,
        forbidden_chars: settings.nameCheck?.forbiddenChars,
        forbidden_regexp: settings.nameCheck?.forbiddenPattern,
      },
    }),
    ...on(settings.encryption !== null, { encryption: { enabled: true } }),
    ...on(settings.s3 !== null, {
      s3api: {
        max_bucket_listing: 1000,
        max_parts_listing: 1000,
        max_upload_part_num: settings.s3?.maxParts,
        max_multi_delete_objects: 1000,
        allow_multipart_uploads: true,
        min_segment_size: settings.s3?.minPartSize,
        s3_acl: false,
      },
    }),
  }
}

function realmClusters(clusters: Record<string, string>, realm: string, current: string | null): Record<string, object> {
  return Object.fromEntries(Object.keys(clusters).map(name => [name, current === `${realm}/${name}` ? { current: true } : {}]))
}
