import { hasShape, type Tried } from '#kit/http/tried.ts'

const KEY = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti tried'

/** A server with metadata, a tag and an address; a key pair; a server group. Flavors, aggregates and services are the cloud's. */
export const tried: Tried = {
  async make({ owner, admin, made, projectId, until }) {
    const { flavors } = await owner('GET /v2.1/flavors')
    const flavorRef = flavors.find((flavor: { name: string }) => flavor.name === 'm1.tiny').id
    await owner('POST /v2.1/os-keypairs', { keypair: { name: 'tried', public_key: KEY } })
    const group = await owner('POST /v2.1/os-server-groups', { server_group: { name: 'tried', policy: 'anti-affinity' } })
    const { server } = await owner('POST /v2.1/servers', {
      server: {
        name: 'tried',
        flavorRef,
        imageRef: made.glance!['/images/:'],
        key_name: 'tried',
        networks: [{ uuid: made.neutron!['/networks/:'] }],
        metadata: { one: '1' },
        tags: ['one'],
      },
    })
    const at = `/v2.1/servers/${server.id}`
    await until(
      () => owner(`GET ${at}`),
      (answer: { server: { status: string } }) => answer.server.status === 'ACTIVE',
    )
    const { instanceActions } = await owner(`GET ${at}/os-instance-actions`)
    const interfaces = await owner(`GET ${at}/os-interface`)
    const console = await owner(`POST ${at}/remote-consoles`, { remote_console: { protocol: 'vnc', type: 'novnc' } })
    const { aggregate } = await admin('POST /v2.1/os-aggregates', { aggregate: { name: 'tried', availability_zone: null } })
    return {
      '/servers/:': server.id,
      '/servers/:/metadata/:': 'one',
      '/servers/:/tags/:': 'one',
      '/servers/:/ips/:': 'tried',
      '/servers/:/os-instance-actions/:': instanceActions[0].request_id,
      '/os-keypairs/:': 'tried',
      '/os-server-groups/:': group.server_group.id,
      '/os-console-auth-tokens/:': new URL(console.remote_console.url).searchParams.get('path')!.replace(/.*token=/, ''),
      '/os-quota-sets/:': projectId,
      '/os-aggregates/:': String(aggregate.id),
      '/os-simple-tenant-usage/:': projectId,
      '/os-fping/:': server.id,
      '/servers/:/os-interface/:': interfaces.interfaceAttachments[0].port_id,
      '/images/:': made.glance!['/images/:']!,
      '/images/:/metadata/:': 'one',
      '/os-networks/:': made.neutron!['/networks/:']!,
      '/os-tenant-networks/:': made.neutron!['/networks/:']!,
      '/os-security-groups/:': made.neutron!['/security-groups/:']!,
      '/os-security-group-rules/:': made.neutron!['/security-group-rules/:']!,
      '/os-floating-ips/:': made.neutron!['/floatingips/:']!,
    }
  },
  async shared({ admin, owner }) {
    const { flavors } = await owner('GET /v2.1/flavors')
    const { services } = await admin('GET /v2.1/os-services')
    const { hypervisors } = await admin('GET /v2.1/os-hypervisors')
    const extra = { extra_specs: { 'hw:mem_page_size': 'small' } }
    await admin(`POST /v2.1/flavors/${flavors[0].id}/os-extra_specs`, extra)
    return {
      '/versions/:': 'v2.1',
      '/extensions/:': 'os-keypairs',
      '/flavors/:': flavors[0].id,
      '/flavors/:/os-extra_specs/:': 'hw:mem_page_size',
      '/os-services/:': services[0].id,
      '/os-hypervisors/:': hypervisors[0].id,
      '/os-quota-class-sets/:': 'default',
      '/novnc/*': 'vnc_lite.html',
    }
  },
  borrowing: ids => {
    const server = { name: 'thief', flavorRef: ids['/flavors/:'], networks: 'none', imageRef: ids['glance forAll'] }
    return [
      ['POST /v2.1/servers', { server: { ...server, imageRef: ids['glance /images/:'] } }],
      ['POST /v2.1/servers', { server: { ...server, key_name: 'tried' } }],
      ['POST /v2.1/servers', { server: { ...server, networks: [{ uuid: ids['neutron /networks/:'] }] } }],
      ['POST /v2.1/servers', { server: { ...server, networks: [{ port: ids['neutron /ports/:'] }] } }],
      ['POST /v2.1/servers', { server, 'os:scheduler_hints': { group: ids['/os-server-groups/:'] } }],
      ['GET /v2.1/servers?all_tenants=1'],
      ['GET /v2.1/servers/detail?all_tenants=1'],
      [`GET /v2.1/limits?tenant_id=${ids['/os-quota-sets/:']}`],
      [`GET /v2.1/os-keypairs?user_id=${ids['keystone /users/:']}`],
    ]
  },
  open: { 'GET /os-quota-sets/:id/defaults': 'they are the same for every project' },
  refusal(body) {
    const entries = Object.entries((body ?? {}) as object)
    return entries.length === 1 && hasShape(entries[0]![1], { code: 'number', message: 'string' })
  },
}
