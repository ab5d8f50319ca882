/** Delivers the updates of containers that did not get through when their objects were stored. */
import { readFile, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { type Daemon, devicesHere, entriesOf, type Pass, type Premises } from '../daemons.ts'
import { failedWith, putFile, quarantine, withPolicy } from '../disk/layout.ts'
import { discard, ok, type Res, unquote } from '../http/message.ts'
import { partitionFor, primaries } from '../ring/ring.ts'
import type { Pending } from './updates.ts'

/** Every pending update on this host. */
export const objectUpdater = (every: number): Daemon => ({
  name: 'object-updater',
  every,
  async pass(premises, pass) {
    for (const device of devicesHere(premises)) {
      for (const policy of premises.cluster.policies) {
        const root = join(premises.objects.root, device, withPolicy('async_pending', policy.index))
        for (const suffix of await entriesOf(root)) await folder(premises, pass, device, join(root, suffix))
      }
    }
  },
})

async function folder(premises: Premises, pass: Pass, device: string, dir: string): Promise<void> {
  const names = (await entriesOf(dir)).sort().reverse()
  let last = ''
  for (const name of names) {
    const hash = name.slice(0, 32)
    if (hash === last) {
      // an older update of the same object, which the newer one makes needless
      await unlink(join(dir, name)).catch(ignoreMissing)
      pass.count('redundant')
      continue
    }
    last = hash
    await pass.pace(200)
    await deliver(premises, pass, device, join(dir, name))
  }
}

const ignoreMissing = (error: unknown): void => {
  if (!failedWith(error, 'ENOENT')) throw error
}

async function deliver(premises: Premises, pass: Pass, device: string, path: string): Promise<void> {
  const disk = { root: premises.objects.root, device }
  let pending: Pending
  try {
    pending = JSON.parse(await readFile(path, 'utf8')) as Pending
  } catch (error) {
    if (failedWith(error, 'ENOENT')) return
    if (!(error instanceof SyntaxError)) throw error
    await quarantine(disk, 'async_pending', path)
    pass.count('quarantined')
    return
  }
  const { cluster } = premises
  const [account, container] = (pending.shard ?? `${pending.account}/${pending.container}`).split('/')
  const partition = partitionFor(cluster.containerRing, cluster.secrets, account, container)
  const done = new Set(pending.done)
  const before = done.size
  let moved: string | null = null
  const results = await Promise.all(
    primaries(cluster.containerRing, partition).map(async place => {
      const key = `${place.ip}:${place.port}/${place.device}`
      if (done.has(key)) return true
      const res = await cluster.dial(place, 'container', partition, {
        method: pending.op,
        path: `/${account}/${container}/${pending.object}`,
        headers: { ...pending.headers, 'x-backend-accept-redirect': 'true', 'x-backend-accept-quoted-location': 'true' },
      })
      discard(res)
      moved ??= redirected(res)
      if (ok(res.status) || (res.status === 404 && pending.op === 'DELETE')) done.add(key)
      return done.has(key)
    }),
  )
  if (results.every(Boolean)) {
    await unlink(path).catch(ignoreMissing)
    pass.count('delivered')
  } else if (moved && moved !== pending.shard) {
    await putFile(disk, path, JSON.stringify({ ...pending, shard: moved, done: [] } satisfies Pending))
    pass.count('redirected')
    await deliver(premises, pass, device, path)
  } else {
    pass.count('failures')
    if (done.size > before) await putFile(disk, path, JSON.stringify({ ...pending, done: [...done] } satisfies Pending))
  }
}

/** The shard that a 301 points to. */
export function redirected(res: Res): string | null {
  if (res.status !== 301 || !res.headers.location) return null
  const [account, container] = unquote(res.headers.location)!.replace(/^\//, '').split('/')
  return `${account}/${container}`
}
