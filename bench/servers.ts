import { benchCloud, cpuOf } from './cloud.ts'
import { atLeast, atMost, type Bench, type Figure } from './figure.ts'
import { type Caller, caller, type Material, prepare, serversBuilt, serversPost } from './fill.ts'
import { beside, rawServer } from './load.ts'

const SERVERS = 1000
const CONCURRENCY = 16
const HOSTS = 100

/** GET /servers/detail of 100 servers beside raw node:http that sends the same bytes. */
async function detail(url: string, api: Caller): Promise<Figure> {
  const list = `${url}/compute/v2.1/servers/detail?limit=100`
  const { headers } = api
  const raw = await rawServer(await (await fetch(list, { headers })).text())
  try {
    const { value, limit } = await beside(
      { url: list, connections: 8, seconds: 1, headers },
      { url: raw.url, connections: 8, seconds: 1, headers },
    )
    return atLeast('GET /servers/detail, 100 servers', value, 'requests/s', limit, 1 / 3)
  } finally {
    await raw.close()
  }
}

/** POSTs servers until all are ACTIVE. */
async function built(api: Caller, material: Material, count: number): Promise<{ seconds: number; active: number }> {
  const began = performance.now()
  const ids = await serversPost(api, material, count, CONCURRENCY)
  const active = await serversBuilt(api, ids, 250)
  return { seconds: (performance.now() - began) / 1000, active }
}

export const bench: Bench = {
  about: '1,000 simulated servers POSTed at concurrency 16 until all are ACTIVE, and CPU of each; the detailed list of 100',
  async run(say) {
    const cloud = await benchCloud(`--simulate=${HOSTS}`)
    const api = await caller(cloud, CONCURRENCY)
    try {
      const material = await prepare(cloud, api)
      await built(api, material, 100)
      const list = await detail(cloud.url, api)
      say(`${SERVERS} servers`)
      const before = cpuOf(cloud)
      const { seconds, active } = await built(api, material, SERVERS)
      const cpu = ((cpuOf(cloud) - before) / SERVERS) * 1000
      return [
        atLeast(
          'simulated servers, POST to ACTIVE',
          active / seconds,
          'servers/s',
          60,
          1,
          `${SERVERS} at concurrency ${CONCURRENCY}`,
        ),
        atLeast('simulated servers that became ACTIVE', (active / SERVERS) * 100, '%', 100, 1),
        list,
        atMost('CPU of a simulated server, POST to ACTIVE', cpu, 'ms', 20),
      ]
    } finally {
      api.close()
      await cloud.down()
    }
  },
}
