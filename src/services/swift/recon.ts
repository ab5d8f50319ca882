/** `GET /recon/…` of a storage node: what `swift-recon` asks, and how far each daemon is. `POST /recon/run/NAME` makes a pass now. */
import { createHash } from 'node:crypto'
import { readdir, readFile, statfs } from 'node:fs/promises'
import { loadavg } from 'node:os'
import { join } from 'node:path'
import { devicesHere, entriesOf, type Premises, type Running } from './daemons.ts'
import { failedWith } from './disk/layout.ts'
import { type App, refuse, reply } from './http/message.ts'
import { formatRing } from './ring/io.ts'

/** In front of the servers of a host. */
export function reconApp(premises: Premises, daemons: Running, next: App): App {
  return async req => {
    if (req.path === '/healthcheck') return reply(200, { 'content-type': 'text/plain' }, 'OK')
    if (!req.path.startsWith('/recon/')) return next(req)
    const [, , what, ...rest] = req.path.split('/')
    if (req.method === 'POST' && what === 'run')
      return reply(200, { 'content-type': 'application/json' }, JSON.stringify(await daemons.once(rest[0])))
    if (req.method !== 'GET') return refuse(405)
    const value = await answer(premises, daemons, what, rest)
    return value === undefined
      ? reply(404, { 'content-type': 'text/plain' }, 'Invalid path')
      : reply(200, { 'content-type': 'application/json' }, JSON.stringify(value))
  }
}

async function answer(premises: Premises, daemons: Running, what: string, rest: string[]): Promise<unknown> {
  const { progress } = daemons
  const of = (name: string): Record<string, unknown> => {
    const state = progress[name]
    return state
      ? {
          [`${name.replace(/-/g, '_')}_pass`]: state.counts,
          took: state.took / 1000,
          last: state.began / 1000,
          passes: state.passes,
          error: state.error,
        }
      : {}
  }
  switch (what) {
    case 'version':
      return { version: '2.38.0' }
    case 'load': {
      const [one, five, fifteen] = loadavg()
      return { '1m': one, '5m': five, '15m': fifteen }
    }
    case 'mem':
      return Object.fromEntries(
        (await readFile('/proc/meminfo', 'utf8'))
          .trim()
          .split('\n')
          .map(line => line.split(/:\s+/) as [string, string]),
      )
    case 'async': {
      let pending = 0
      for (const device of devicesHere(premises)) {
        for (const policy of premises.cluster.policies) {
          const root = join(premises.objects.root, device, policy.index ? `async_pending-${policy.index}` : 'async_pending')
          for (const suffix of await entriesOf(root)) pending += (await entriesOf(join(root, suffix))).length
        }
      }
      return { async_pending: pending }
    }
    case 'replication':
      return of(`${rest[0] ?? 'object'}-replicator`)
    case 'auditor':
      return of(`${rest[0] ?? 'object'}-auditor`)
    case 'updater':
      return of(`${rest[0] ?? 'object'}-updater`)
    case 'expirer':
      return of('object-expirer')
    case 'reconstruction':
      return of('object-reconstructor')
    case 'sharding':
      return of('container-sharder')
    case 'relinker':
      return of('object-relinker')
    case 'daemons':
      return progress
    case 'devices':
      return { [premises.objects.root]: await readdir(premises.objects.root) }
    case 'unmounted':
      return (await usage(premises)).filter(one => !one.mounted).map(({ device }) => ({ device, mounted: false }))
    case 'diskusage':
      return usage(premises)
    case 'quarantined': {
      const counts: Record<string, number> = { accounts: 0, containers: 0, objects: 0 }
      for (const device of devicesHere(premises)) {
        for (const kind of await entriesOf(join(premises.objects.root, device, 'quarantined'))) {
          const name = kind.startsWith('objects') ? 'objects' : kind
          counts[name] = (counts[name] ?? 0) + (await entriesOf(join(premises.objects.root, device, 'quarantined', kind))).length
        }
      }
      return counts
    }
    case 'ringmd5': {
      const rings = {
        'account.ring.gz': premises.cluster.accountRing,
        'container.ring.gz': premises.cluster.containerRing,
        ...Object.fromEntries(
          premises.cluster.policies.map(policy => [
            policy.index ? `object-${policy.index}.ring.gz` : 'object.ring.gz',
            policy.ring,
          ]),
        ),
      }
      return Object.fromEntries(
        Object.entries(rings).map(([name, ring]) => [name, createHash('md5').update(formatRing(ring)).digest('hex')]),
      )
    }
    case 'time':
      return Date.now() / 1000
    default:
      return undefined
  }
}

async function usage(
  premises: Premises,
): Promise<{ device: string; mounted: boolean; size: number | string; used: number | string; avail: number | string }[]> {
  return Promise.all(
    devicesHere(premises).map(async device => {
      try {
        const fs = await statfs(join(premises.objects.root, device))
        return {
          device,
          mounted: true,
          size: fs.blocks * fs.bsize,
          used: (fs.blocks - fs.bfree) * fs.bsize,
          avail: fs.bavail * fs.bsize,
        }
      } catch (error) {
        if (!failedWith(error, 'ENOENT', 'EIO', 'ENOTDIR')) throw error
        return { device, mounted: false, size: '', used: '', avail: '' }
      }
    }),
  )
}
