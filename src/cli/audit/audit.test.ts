import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { type Config, loadConfig } from '#kit/config.ts'
import { type Db, sql } from '#kit/db/index.ts'
import { testDb } from '#kit/db/test.ts'
import { SERVICES } from '../../roles/services.ts'
import { SETTINGS } from '../../roles/settings.ts'
import { look } from './look.ts'

interface World {
  db: Db
  config: Config
  /** What is found of a service, a line each; `hosts` pretends what hosts answered. */
  found(service: string, hosts?: Record<string, unknown>): Promise<string[]>
  run(statement: string): Promise<void>
}

async function world(t: TestContext): Promise<World> {
  const data = mkdtempSync(join(tmpdir(), 'nubo-audit-'))
  t.after(() => rmSync(data, { recursive: true }))
  const db = await testDb(
    t,
    SERVICES.map(s => ({ schema: s.name, migrations: [...s.migrations] })),
  )
  const config = loadConfig(join(data, 'nubo.yaml'), SETTINGS, { nubo: { data } })
  return {
    db,
    config,
    async found(service, hosts = {}) {
      const { audit } = SERVICES.find(s => s.name === service)!
      const list = await audit!.findings({ db: db.read, config, files: true, hosts: new Map(Object.entries(hosts)) })
      return list.map(({ what, id, why }) => `${what} ${id}: ${why}`).sort()
    },
    async run(statement) {
      for (const one of statement.split(';\n')) if (one.trim()) await sql.raw(one).execute(db.read)
    },
  }
}

test('keystone: roles for nobody, on nothing', async t => {
  const { found, run } = await world(t)
  await run(`
    insert into keystone.projects (id, name, is_domain) values ('d', 'd', true);
    insert into keystone.projects (id, name, domain_id, parent_id) values ('p', 'p', 'd', 'd');
    insert into keystone.users (id, domain_id, name) values ('u', 'd', 'u');
    insert into keystone.roles (id, name) values ('r', 'r');
    insert into keystone.assignments (actor, actor_id, target, target_id, role_id) values ('user', 'u', 'project', 'p', 'r'), ('user', 'u', 'system', 'all', 'r')`)
  assert.deepEqual(await found('keystone'), [])
  await run(`
    insert into keystone.assignments (actor, actor_id, target, target_id, role_id) values ('user', 'nobody', 'project', 'p', 'r'), ('user', 'u', 'domain', 'p', 'r')`)
  assert.deepEqual(await found('keystone'), [
    'assignment r of user u: it is on domain p, which does not exist',
    'assignment r on project p: it gives a role to user nobody, who does not exist',
  ])
})

test('placement: more than there is', async t => {
  const { found, run } = await world(t)
  await run(`
    insert into placement.classes (name) values ('VCPU'), ('DISK_GB');
    insert into placement.providers (id, name, root_id) values ('h', 'h', 'h');
    insert into placement.inventories (provider_id, class, total, reserved, min_unit, max_unit, step_size, allocation_ratio) values ('h', 'VCPU', 4, 1, 1, 4, 1, 1.5);
    insert into placement.consumers (id, project_id, user_id) values ('c', 'p', 'u'), ('idle', 'p', 'u');
    insert into placement.allocations (consumer_id, provider_id, class, used) values ('c', 'h', 'VCPU', 4)`)
  assert.deepEqual(await found('placement'), ['consumer idle: it has no allocations'])
  await run(`
    delete from placement.consumers where id = 'idle';
    update placement.allocations set used = 5;
    insert into placement.allocations (consumer_id, provider_id, class, used) values ('c', 'h', 'DISK_GB', 1)`)
  assert.deepEqual(await found('placement'), [
    'allocation c: it uses 1 DISK_GB of provider h, which has none',
    'provider h: its use of VCPU is 5, its capacity 4',
  ])
})

test('glance: files without images, images without files', async t => {
  const { found, run, config } = await world(t)
  const image = (id: string, file: string | null, status = 'active'): string => {
    const locations = file ? `[{"store":"file","file":"${file}","url":null,"metadata":{}}]` : '[]'
    return `insert into glance.images (id, status, visibility, min_disk, min_ram, protected, os_hidden, size, properties, tags, locations)
      values ('${id}', '${status}', 'private', 0, 0, false, false, 3, '{}', '{}', '${locations}')`
  }
  const folder = join(config.dataDir, 'images')
  mkdirSync(folder)
  for (const name of ['whole', 'short', 'orphan', 'young']) writeFileSync(join(folder, name), name === 'short' ? 'a' : 'abc')
  utimesSync(join(folder, 'orphan'), 1, 1)
  await run(
    [image('i1', 'whole'), image('i2', 'short'), image('i3', 'lost'), image('i4', null), image('i5', null, 'queued')].join(';\n'),
  )
  assert.deepEqual(await found('glance'), [
    `file ${folder}/orphan: no image has it`,
    `image i2: it has 3 bytes, its file short in ${folder} has 1`,
    `image i3: its file lost is missing in ${folder}`,
    'image i4: its state is active, which its locations do not fit',
  ])
})

const NETWORK = `
  insert into neutron.networks (id, project_id, mtu) values ('n', 'p', 1450), ('n2', 'p', 1450);
  insert into neutron.subnets (id, network_id, project_id, ip_version, cidr) values ('s', 'n', 'p', 4, '10.0.0.0/24');
  insert into neutron.ports (id, network_id, project_id, mac_address, device_owner, device_id, host) values
    ('port', 'n', 'p', 'fa:16:3e:00:00:01', 'compute:nova', 'server', 'h1'),
    ('float', 'n', 'p', 'fa:16:3e:00:00:02', 'network:floatingip', 'f', '');
  insert into neutron.ip_allocations (subnet_id, ip, port_id, network_id) values ('s', '10.0.0.5', 'port', 'n'), ('s', '10.0.0.9', 'float', 'n');
  insert into neutron.floating_ips (id, project_id, floating_network_id, floating_port_id, floating_ip_address, port_id, fixed_ip_address)
    values ('f', 'p', 'n', 'float', '10.0.0.9', 'port', '10.0.0.5')`

test('neutron: addresses, legs, quota, and what hosts have that nothing asks for', async t => {
  const { found, run } = await world(t)
  await run(NETWORK)
  const bridge = { kind: 'bridge', name: 'brqn', id: 'n', wanted: true }
  assert.deepEqual(await found('neutron', { h1: [bridge] }), [])
  await run(`
    update neutron.ip_allocations set ip = '10.0.1.5' where port_id = 'port';
    update neutron.ports set device_owner = 'network:router_interface' where id = 'float';
    insert into neutron.quotas (project_id, resource, "limit") values ('p', 'network', 1)`)
  assert.deepEqual(await found('neutron', { h1: [bridge, { ...bridge, name: 'brqold', wanted: false }] }), [
    'bridge brqold: host h1 has it, and nothing asks for it',
    'floating address f: it leads to 10.0.0.5, which port port does not have',
    'port float: it is network:router_interface of router f, which does not exist',
    'port port: its address 10.0.1.5 is outside 10.0.0.0/24 of subnet s',
    'quota p: the project has 2 of network, its limit is 1',
  ])
})

const FLAVOR = {
  id: 'f',
  name: 'f',
  vcpus: 1,
  memory_mb: 512,
  root_gb: 1,
  ephemeral_gb: 0,
  swap_mb: 0,
  rxtx_factor: 1,
  extra_specs: {},
}

const server = (id: string, more: Record<string, unknown> = {}): string => {
  const row = {
    id,
    name: id,
    project_id: 'p',
    user_id: 'u',
    vm_state: 'active',
    host: 'h1',
    flavor_id: 'f',
    flavor: JSON.stringify(FLAVOR),
    vcpus: 1,
    memory_mb: 512,
    config_drive: false,
    hostname: id,
    disk_config: 'MANUAL',
    launch_index: 0,
    reservation_id: 'r',
    build: '{}',
    ...more,
  }
  const value = (v: unknown): string => (v === null ? 'null' : typeof v === 'string' ? `'${v}'` : String(v))
  return `insert into nova.servers (${Object.keys(row).join(', ')}) values (${Object.values(row).map(value).join(', ')})`
}

test('nova: allocations, ports, guests, operations and quota of servers', async t => {
  const { db, found, run } = await world(t)
  await run(NETWORK)
  await run(`
    insert into placement.classes (name) values ('VCPU'), ('MEMORY_MB'), ('DISK_GB') on conflict do nothing;
    insert into placement.providers (id, name, root_id) values ('prov1', 'h1', 'prov1'), ('prov2', 'h2', 'prov2');
    insert into nova.hypervisors (id, host, hypervisor_hostname, hypervisor_type, hypervisor_version, vcpus, memory_mb, disk_gb, inventory)
      values ('prov1', 'h1', 'h1', 'QEMU', 1, 4, 4096, 10, '{}'), ('prov2', 'h2', 'h2', 'QEMU', 1, 4, 4096, 10, '{}');
    insert into placement.consumers (id, project_id, user_id, type) values ('server', 'p', 'u', 'INSTANCE');
    insert into placement.allocations (consumer_id, provider_id, class, used) values
      ('server', 'prov1', 'VCPU', 1), ('server', 'prov1', 'MEMORY_MB', 512), ('server', 'prov1', 'DISK_GB', 1);
    ${server('server', { nics: JSON.stringify([{ portId: 'port' }]) })}`)
  const thing = (kind: string, name: string, guest: string | null, wanted = true) => ({ kind, name, guest, wanted })
  const real = [thing('folder', '/d/server', 'server'), thing('process', '77', 'server'), thing('tap', 'tapport', 'server')]
  assert.deepEqual(await found('nova', { h1: real, h2: [] }), [])

  await run(`
    ${server('lost', { host: null, task_state: 'rebooting' })};
    ${server('unpaid')};
    update neutron.ports set host = 'h2' where id = 'port';
    insert into placement.consumers (id, project_id, user_id, type) values ('ghost', 'p', 'u', 'INSTANCE');
    insert into placement.allocations (consumer_id, provider_id, class, used) values ('ghost', 'prov2', 'VCPU', 2);
    insert into nova.quotas (project_id, user_id, resource, hard_limit) values ('p', '', 'cores', 2);
    insert into kit.sagas (id, name, resource, args, state) values ('1', 'nova.server.create', 'nova.server:gone', '{}', 'running')`)
  const hosts = {
    h1: [thing('tap', 'tapold', null, false)],
    h2: [thing('guest', 'server', 'server'), thing('guest', 'ghost', 'ghost')],
  }
  assert.deepEqual(await found('nova', hosts), [
    'allocation ghost: it takes 2 VCPU of h2 for a server that does not exist',
    'allocation unpaid: the server takes nothing of host h1 and should take 1 DISK_GB, 512 MEMORY_MB, 1 VCPU',
    'guest ghost: host h2 has it, but there is no such server',
    'guest server: host h1 does not have it, but the server is there and active',
    'guest server: host h2 has it, but the server is on h1',
    'guest unpaid: host h1 does not have it, but the server is there and active',
    'operation gone: nova.server.create works on a server that does not exist',
    'port port: it is bound on host h2, its server server is on h1',
    'quota p: the project has 3 cores, its limit is 2',
    'server lost: it is active, but on no host',
    'server lost: it says that it is rebooting, but no operation works on it',
    'tap tapold: host h1 has it, and no guest asks for it',
  ])
  const waiting = await SERVICES.find(s => s.name === 'nova')!.audit!.unsettled!(db.read, 0)
  assert.deepEqual(
    waiting.map(({ id, state }) => [id, state]),
    [['lost', 'active (rebooting)']],
  )
})

test('an operation that nobody can go on with is found; what passes meanwhile is not', async t => {
  const { db, config, run } = await world(t)
  const options = { db, config, services: SERVICES, files: true, patience: 100 }
  assert.deepEqual(await look(options), { findings: [], silent: [], away: [], hosts: 0 })
  await run(`
    insert into kit.sagas (id, name, resource, args, state) values ('1', 'nova.from.the.future', 'x:1', '{}', 'running');
    insert into kit.hosts (name) values ('h9');
    insert into placement.consumers (id, project_id, user_id) values ('brief', 'p', 'u')`)
  const looking = look({ ...options, again: { times: 2, pause: 300 } })
  setTimeout(() => void run("delete from placement.consumers where id = 'brief'"), 100)
  assert.deepEqual(await looking, {
    findings: [{ service: 'kit', what: 'operation', id: 'x:1', why: 'no service knows how to go on with nova.from.the.future' }],
    silent: [],
    away: ['h9'],
    hosts: 0,
  })
})
