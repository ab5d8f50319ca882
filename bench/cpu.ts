import { benchCloud, cpuOf } from './cloud.ts'
import { atMost, type Bench } from './figure.ts'
import { type Caller, caller, many, prepare } from './fill.ts'

/** CPU milliseconds of the cloud for each of `count` requests, eight at a time, after a tenth as many that do not count. */
async function each(
  cloud: Parameters<typeof cpuOf>[0],
  count: number,
  request: (i: number) => Promise<unknown>,
): Promise<number> {
  await many(Math.ceil(count / 10), 8, request)
  const before = cpuOf(cloud)
  await many(count, 8, i => request(count + i))
  return ((cpuOf(cloud) - before) / count) * 1000
}

const emptyList =
  ({ call }: Caller) =>
  () =>
    call('GET', '/compute/v2.1/servers')

const newNetwork =
  ({ call }: Caller) =>
  (i: number) =>
    call('POST', '/networking/v2.0/networks', { network: { name: `bench-${i}` } })

export const bench: Bench = {
  about: 'CPU of a request, Nubo and PostgreSQL together: an empty list of servers, a new network',
  async run() {
    const cloud = await benchCloud('--simulate')
    const api = await caller(cloud, 8)
    try {
      await prepare(cloud, api)
      return [
        atMost('CPU of an empty list of servers', await each(cloud, 10_000, emptyList(api)), 'ms', 0.3),
        atMost('CPU of POST network', await each(cloud, 1000, newNetwork(api)), 'ms', 4),
      ]
    } finally {
      api.close()
      await cloud.down()
    }
  },
}
