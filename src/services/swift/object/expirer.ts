/** Deletes objects whose `X-Delete-At` has come, by the queue of `.expiring_objects`. */
import type { Daemon, Pass, Premises } from '../daemons.ts'
import { discard, type Headers, ok, readAll } from '../http/message.ts'
import { request } from '../internal.ts'
import { partitionFor, primaries } from '../ring/ring.ts'
import { now } from '../timestamp.ts'
import { EXPIRING_ACCOUNT } from './updates.ts'

interface Task {
  name: string
  content_type: string
}

/** The queue's containers up to now, oldest first. */
export const objectExpirer = (every: number): Daemon => ({
  name: 'object-expirer',
  every,
  async pass(premises, pass) {
    const time = Math.floor(Date.now() / 1000)
    const containers = await list<{ name: string }>(premises, `/v1/${EXPIRING_ACCOUNT}`)
    for (const { name } of containers) {
      if (!/^\d+$/.test(name) || Number(name) > time) continue
      await container(premises, pass, name, time)
      await finish(premises, pass, name)
    }
  },
})

/** What is due of one container. Its entries are in the order of their times; other containers of the same day hold other objects. */
async function container(premises: Premises, pass: Pass, name: string, time: number): Promise<void> {
  for (let marker = ''; ; ) {
    const tasks = await list<Task>(premises, `/v1/${EXPIRING_ACCOUNT}/${name}`, marker)
    for (const task of tasks) {
      if (Number(task.name.slice(0, 10)) > time) return
      await pass.pace(100)
      await expire(premises, pass, name, task)
    }
    if (tasks.length < 10000) return
    marker = tasks.at(-1)!.name
  }
}

async function list<T>(premises: Premises, path: string, marker = ''): Promise<T[]> {
  const query: [string, string][] = [['format', 'json'], ...(marker ? [['marker', marker] as [string, string]] : [])]
  const res = await premises.client(request('GET', path, { query: new Map(query) }))
  if (!ok(res.status)) {
    discard(res)
    if (res.status === 404) return []
    throw new Error(`GET ${path} answered ${res.status}`)
  }
  return JSON.parse((await readAll(res.body)).toString() || '[]') as T[]
}

async function expire(premises: Premises, pass: Pass, container: string, task: Task): Promise<void> {
  const [at, ...rest] = task.name.split('-')
  const target = rest.join('-')
  const isAsyncDelete = task.content_type.startsWith('application/async-deleted')
  const headers: Headers = { 'x-timestamp': now(), 'x-backend-clean-expiring-object-queue': 'f' }
  if (!isAsyncDelete) headers['x-if-delete-at'] = String(Number(at))
  const res = await premises.client(request('DELETE', `/v1/${target}`, { headers }))
  discard(res)
  // 404, 409 and 412: it is gone, replaced, or ends at another time, which has an entry of its own
  if (ok(res.status)) pass.count('expired')
  else if (res.status === 404 || res.status === 409 || res.status === 412) pass.count('stale')
  else return pass.count('failures')
  await deleteRow(premises, EXPIRING_ACCOUNT, container, task.name)
}

async function finish(premises: Premises, pass: Pass, container: string): Promise<void> {
  const res = await premises.client(request('DELETE', `/v1/${EXPIRING_ACCOUNT}/${container}`))
  discard(res)
  if (ok(res.status)) pass.count('emptied')
}

/** Takes a row out of a container's databases, whatever object there is or is not. */
export async function deleteRow(premises: Premises, account: string, container: string, name: string): Promise<void> {
  const { cluster } = premises
  const partition = partitionFor(cluster.containerRing, cluster.secrets, account, container)
  const headers: Headers = { 'x-timestamp': now(), 'x-backend-storage-policy-index': '0' }
  await Promise.all(
    primaries(cluster.containerRing, partition).map(async place => {
      discard(
        await cluster.dial(place, 'container', partition, {
          method: 'DELETE',
          path: `/${account}/${container}/${name}`,
          headers,
        }),
      )
    }),
  )
}
