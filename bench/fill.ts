/** What figures need in a cloud: quota, networks, servers in numbers. */
import type { BenchCloud } from './cloud.ts'
import { Agent, once } from './load.ts'

/** A signed-in caller on keep-alive connections. */
export interface Caller {
  /** Throws for an answer that is not 2xx. */
  call<T>(method: string, path: string, body?: unknown): Promise<T>
  headers: Record<string, string>
  close(): void
}

/** The administrator of the cloud, with `connections` connections. */
export async function caller(cloud: BenchCloud, connections = 16): Promise<Caller> {
  const agent = new Agent({ keepAlive: true, maxSockets: connections })
  const headers = { 'x-auth-token': await cloud.token() }
  return {
    headers,
    async call<T>(method: string, path: string, body?: unknown) {
      const { status, body: text } = await once(agent, cloud.url + path, {
        method,
        headers,
        body: body === undefined ? undefined : JSON.stringify(body),
      })
      if (status < 200 || status > 299) throw new Error(`${method} ${path}: ${status} ${text}`)
      return (text === '' ? undefined : JSON.parse(text)) as T
    },
    close: () => agent.destroy(),
  }
}

/** Runs `fn` for 0 … count - 1, so many at a time. */
export async function many(count: number, atOnce: number, fn: (i: number) => Promise<unknown>): Promise<void> {
  let next = 0
  const worker = async (): Promise<void> => {
    while (next < count) await fn(next++)
  }
  await Promise.all(Array.from({ length: atOnce }, worker))
}

/** What servers are made of. */
export interface Material {
  imageRef: string
  flavorRef: string
  network: string
}

/** Lifts the quotas of the administrator's project and makes a network with room for `servers` servers. */
export async function prepare(cloud: BenchCloud, { call }: Caller): Promise<Material> {
  const project = cloud.projectId
  await call('PUT', `/compute/v2.1/os-quota-sets/${project}`, { quota_set: { instances: -1, cores: -1, ram: -1 } })
  await call('PUT', `/networking/v2.0/quotas/${project}`, { quota: { port: -1, network: -1 } })
  const { images } = await call<{ images: { id: string }[] }>('GET', '/image/v2/images?name=guest')
  const { flavors } = await call<{ flavors: { id: string; name: string }[] }>('GET', '/compute/v2.1/flavors')
  const { network } = await call<{ network: { id: string } }>('POST', '/networking/v2.0/networks', { network: { name: 'bench' } })
  await call('POST', '/networking/v2.0/subnets', {
    subnet: { network_id: network.id, ip_version: 4, cidr: '10.128.0.0/16' },
  })
  return { imageRef: images[0]!.id, flavorRef: flavors.find(f => f.name === 'm1.tiny')!.id, network: network.id }
}

/** POSTs servers, so many at a time. Resolves to their ids when all are accepted. */
export async function serversPost({ call }: Caller, of: Material, count: number, atOnce: number): Promise<string[]> {
  const ids: string[] = []
  await many(count, atOnce, async i => {
    const server = { name: `bench-${i}`, imageRef: of.imageRef, flavorRef: of.flavorRef, networks: [{ uuid: of.network }] }
    ids.push((await call<{ server: { id: string } }>('POST', '/compute/v2.1/servers', { server })).server.id)
  })
  return ids
}

/** Ids of the project's servers in one state. */
async function inState({ call }: Caller, status: string): Promise<string[]> {
  const ids: string[] = []
  for (;;) {
    const marker = ids.length > 0 ? `&marker=${ids.at(-1)}` : ''
    const path = `/compute/v2.1/servers?status=${status}&sort_key=uuid&sort_dir=asc&limit=1000${marker}`
    const { servers } = await call<{ servers: { id: string }[] }>('GET', path)
    ids.push(...servers.map(s => s.id))
    if (servers.length < 1000) return ids
  }
}

/** Waits until none of these servers is being built any more, looking `pollMs` apart. Returns how many are ACTIVE. */
export async function serversBuilt(of: Caller, ids: readonly string[], pollMs: number): Promise<number> {
  for (;;) {
    const building = new Set(await inState(of, 'BUILD'))
    if (!ids.some(id => building.has(id))) break
    await new Promise(resolve => setTimeout(resolve, pollMs))
  }
  const active = new Set(await inState(of, 'ACTIVE'))
  return ids.filter(id => active.has(id)).length
}
