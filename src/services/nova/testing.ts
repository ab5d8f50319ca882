/** A compute cloud for tests: controllers' side real, hosts pretended, everything over the link. */
import type { TestContext } from 'node:test'
import { conflict, notFound } from '#kit/fault.ts'
import { testCloud } from '#kit/http/test.ts'
import { dial, hostsOpen, memoryWay, serve } from '#kit/link/index.ts'
import { connected, keptLog } from '#kit/link/testing.ts'
import { neighbours } from './neighbours.ts'
import { nova } from './service.ts'
import type { Guest, GuestSpec, HostInventory } from './spec.ts'
import * as verbs from './verbs.ts'

export const IMAGE = '70a599e0-31e7-49b7-b260-868f441e862b'

export const inventory = (host: string, more: Partial<HostInventory> = {}): HostInventory => ({
  hostname: host,
  hypervisorType: 'fake',
  hypervisorVersion: 1000,
  accelerator: 'memory',
  architecture: 'x86_64',
  vcpus: 32,
  memoryMb: 65_536,
  memoryFreeMb: 60_000,
  diskGb: 1000,
  diskFreeGb: 900,
  uptimeSeconds: 1,
  loadAverage: [0, 0, 0],
  cpu: { vendor: 'x', model: 'y', topology: { sockets: 1, cores: 32, threads: 1 }, features: ['sse'] },
  traits: [],
  ...more,
})

/** A pretended host: what guests it has. */
export interface FakeHost {
  name: string
  guests: Map<string, { spec: GuestSpec; guest: Guest }>
  /** Makes the next `ensure` fail with this. */
  fail?: Error
  /** Makes `ensure` wait for it. */
  gate?: Promise<void>
  close(): Promise<void>
}

const seen = (spec: GuestSpec, power: Guest['power'] = spec.power): Guest => ({
  id: spec.id,
  revision: spec.revision,
  power,
  wanted: spec.power,
  since: new Date().toISOString(),
})

/** Connects a pretended host and reports it. */
export async function fakeHost(
  hosts: ReturnType<typeof hostsOpen>,
  name: string,
  more: Partial<HostInventory> = {},
): Promise<FakeHost> {
  const guests: FakeHost['guests'] = new Map()
  const link = dial({ host: name, ways: [memoryWay(hosts, name)], log: keptLog() })
  const host: FakeHost = { name, guests, close: () => link.close() }
  const have = (id: string) => {
    const found = guests.get(id)
    if (!found) throw notFound(`There is no guest ${id} here.`)
    return found
  }
  link.serve([
    serve(verbs.ensure, async spec => {
      await host.gate
      const failure = host.fail
      if (failure) throw failure
      const guest = seen(spec)
      guests.set(spec.id, { spec, guest })
      return guest
    }),
    serve(verbs.destroy, ({ id }) => {
      guests.delete(id)
      return {}
    }),
    serve(verbs.power, ({ id, to }) => {
      const found = have(id)
      found.guest = { ...found.guest, power: to, wanted: to }
      return found.guest
    }),
    serve(verbs.reboot, ({ id }) => {
      const found = have(id)
      if (found.guest.power !== 'running') throw conflict('The guest does not run.')
      return found.guest
    }),
    serve(verbs.consoleOutput, ({ id, lines }) => {
      have(id)
      const all = ['one', 'two', 'three']
      return { output: (lines === undefined ? all : all.slice(-lines)).join('\n') }
    }),
  ])
  await connected(link)
  await link.ask(verbs.report, { full: true, guests: [], inventory: inventory(name, more) })
  return host
}

/** A cloud with one image, one small flavor (`f1`) and pretended hosts. */
export async function computeCloud(t: TestContext, names: string[] = ['host1']) {
  const hosts = hostsOpen({ controller: 'c1', log: keptLog() })
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
  const cloud = await testCloud(t, [nova], { hosts })
  const fakes: FakeHost[] = []
  for (const name of names) fakes.push(await fakeHost(hosts, name))
  t.after(() => Promise.all(fakes.map(fake => fake.close())))
  await cloud.call('POST /compute/v2.1/flavors', {
    body: { flavor: { name: 'small', id: 'f1', ram: 512, vcpus: 1, disk: 1 } },
  })
  return { ...cloud, hosts: fakes, links: hosts }
}
