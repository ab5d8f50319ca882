/** A compute cloud for tests: controllers' side real, hosts pretended, everything over the link. */
import type { TestContext } from 'node:test'
import { parseConfig } from '#kit/config.ts'
import { sql } from '#kit/db/index.ts'
import { testDb } from '#kit/db/test.ts'
import { notFound } from '#kit/fault.ts'
import { testCloud } from '#kit/http/test.ts'
import { dial, hostsOpen, memoryWay, type OpenHosts } from '#kit/link/index.ts'
import { connected, keptLog } from '#kit/link/testing.ts'
import { openLog } from '#kit/log.ts'
import { type Saga, sagaRunner, sagaStart } from '#kit/saga/index.ts'
import type { Env } from '#kit/service.ts'
import { glance } from '#services/glance/index.ts'
import { keystone } from '#services/keystone/index.ts'
import { neutron } from '#services/neutron/index.ts'
import { placement } from '#services/placement/index.ts'
import { type MemoryWorld, memoryDriver, memoryWorld, type Verb } from './agent/drivers/memory/index.ts'
import { type NovaAgent, novaAgent } from './agent/link.ts'
import { neighbours } from './neighbours.ts'
import { serverResource, serversInsert } from './servers/store.ts'
import { nova } from './service.ts'

export const IMAGE = '70a599e0-31e7-49b7-b260-868f441e862b'

/** A pretended host: its guests, and ways to make its verbs slow or fail. */
export interface FakeHost {
  name: string
  world: MemoryWorld
  guests: MemoryWorld['guests']
  agent: NovaAgent
  /** What a verb fails with. */
  fail?: (verb: Verb) => Error | undefined
  /** Milliseconds that a verb takes. */
  slow?: (verb: Verb) => number
  close(): Promise<void>
}

/** Connects a pretended host; it has reported itself when this resolves. */
export async function fakeHost(
  hosts: OpenHosts,
  name: string,
  size: { vcpus?: number; memoryMb?: number; diskGb?: number } = {},
): Promise<FakeHost> {
  const world = memoryWorld()
  const link = dial({ host: name, ways: [memoryWay(hosts, name)], log: keptLog() })
  const driver = memoryDriver({
    world,
    hostname: name,
    vcpus: 32,
    memoryMb: 65_536,
    ...size,
    fail: verb => host.fail?.(verb),
    delay: verb => host.slow?.(verb) ?? 0,
  })
  await driver.open()
  const agent = novaAgent({ link, driver, log: keptLog() })
  const host: FakeHost = {
    name,
    world,
    guests: world.guests,
    agent,
    async close() {
      await agent.close()
      await driver.close()
      await link.close()
    },
  }
  await connected(link)
  await agent.sync()
  return host
}

export interface CloudOptions {
  size?: Parameters<typeof fakeHost>[2]
  /** Nova's section of the configuration. */
  settings?: Record<string, unknown>
  /** Seconds in which hosts that were seen lately are waited for. */
  returning?: number
}

/** A cloud with one image, one small flavor (`f1`) and pretended hosts. */
export async function computeCloud(
  t: TestContext,
  names: string[] = ['host1'],
  { size, settings, returning }: CloudOptions = {},
) {
  const hosts = hostsOpen({ controller: 'c1', log: keptLog(), returning })
  t.mock.method(neighbours, 'imageFetch', async (_db: unknown, _ctx: unknown, id: string) => {
    if (id !== IMAGE) throw notFound(`Image ${id} could not be found.`)
    return {
      id,
      name: 'guest',
      diskFormat: 'qcow2',
      containerFormat: 'bare',
      size: 1024 ** 2,
      minDisk: 0,
      minRam: 0,
      properties: { hw_disk_bus: 'virtio' },
      status: 'active',
    }
  })
  t.after(() => hosts.close())
  const config = parseConfig(
    JSON.stringify({ nova: settings ?? {} }),
    'test',
    BELOW.flatMap(s => s.settings ?? []),
  )
  const cloud = await testCloud(t, BELOW, { hosts, config })
  for (const id of ['p1', 'p2', 'admin-project']) {
    await sql`insert into keystone.projects (id, name) values (${id}, ${id}) on conflict do nothing`.execute(cloud.db.read)
  }
  const fakes: FakeHost[] = []
  for (const name of names) fakes.push(await fakeHost(hosts, name, size))
  t.after(() => Promise.all(fakes.map(fake => fake.close())))
  await cloud.call('POST /compute/v2.1/flavors', {
    body: { flavor: { name: 'small', id: 'f1', ram: 512, vcpus: 1, disk: 1 } },
  })
  return { ...cloud, hosts: fakes, links: hosts }
}

/** Compute and all that it stands on. */
const BELOW = [keystone, placement, glance, neutron, nova]

/** A world for tests of one saga: a database, pretended hosts (`host` is the first), a row of a server. */
export async function sagaWorld(names: readonly [string, ...string[]] = ['host1']) {
  const closers: (() => unknown)[] = []
  const late = { after: (fn: () => unknown) => void closers.push(fn) }
  const db = await testDb(
    late as never,
    BELOW.map(s => ({ schema: s.name, migrations: [...s.migrations] })),
  )
  const hosts = hostsOpen({ controller: 'c1', log: keptLog() })
  const config = parseConfig(
    '',
    'test',
    BELOW.flatMap(s => s.settings ?? []),
  )
  const env: Env = { db, log: openLog({ level: 'fatal' }), config, hosts }
  hosts.serve(env, nova.hostVerbs!)
  for (const service of [placement, nova]) {
    const stop = await service.start?.(env)
    if (stop) closers.push(stop)
  }
  const fakes: FakeHost[] = []
  for (const name of names) fakes.push(await fakeHost(hosts, name))
  const host = fakes[0]!
  return {
    env,
    host,
    hosts: fakes,
    /** Writes a server's row and starts a saga for it. */
    serverStart: <A extends { serverId: string; requestId: string }>(
      id: string,
      saga: Saga<A>,
      more: Omit<A, 'serverId' | 'requestId'>,
    ) =>
      db.tx(async tx => {
        await serversInsert(tx, [serverRowNew(id)])
        const args = { serverId: id, requestId: 'req-1', ...more } as A
        await sagaStart(tx, saga, args, { resource: serverResource(id) })
      }),
    async settle(sagas: readonly Saga<never>[]) {
      const runner = await sagaRunner({ env, sagas })
      await runner.idle()
      await runner.stop()
    },
    /** MiB of memory that Placement has given out. */
    async allocated(): Promise<number> {
      const { rows } = await sql<{ used: number }>`
        select coalesce(sum(used), 0)::int as used from placement.allocations where class = 'MEMORY_MB'`.execute(db.read)
      return rows[0]!.used
    },
    async close() {
      for (const fake of fakes) await fake.close()
      await hosts.close()
      for (const close of closers.reverse()) await close()
    },
  }
}

const serverRowNew = (id: string): Parameters<typeof serversInsert>[1][number] => ({
  id,
  name: 'web',
  project_id: 'p1',
  user_id: 'u1',
  vm_state: 'building',
  task_state: 'scheduling',
  flavor_id: 'f1',
  flavor: {
    id: 'f1',
    name: 'small',
    vcpus: 1,
    memory_mb: 512,
    root_gb: 1,
    ephemeral_gb: 0,
    swap_mb: 0,
    rxtx_factor: 1,
    extra_specs: {},
  },
  vcpus: 1,
  memory_mb: 512,
  image_ref: IMAGE,
  image: { id: IMAGE, name: 'i', diskFormat: 'qcow2', containerFormat: 'bare', size: 1, minDisk: 0, minRam: 0, properties: {} },
  config_drive: false,
  hostname: 'web',
  disk_config: 'MANUAL',
  launch_index: 0,
  reservation_id: 'r-1',
  build: {
    networks: 'none',
    securityGroups: [],
    disks: [],
    hints: {},
    forcedHost: null,
    forcedNode: null,
    requestedHost: null,
    requestedNode: null,
    personality: [],
  },
})
