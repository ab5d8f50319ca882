/**
 * What keeps the data right, in the background: passes over all that is here, at an interval, with visible progress. A pass takes no
 * arguments and can be cut off anywhere; the next one does what is left.
 */
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import type { Log } from '#kit/log.ts'
import type { DbSite } from './db/path.ts'
import { failedWith } from './disk/layout.ts'
import type { App } from './http/message.ts'
import type { ObjectSite } from './object/site.ts'
import type { Cluster } from './proxy/cluster.ts'
import type { Site } from './proxy/site.ts'

/** What daemons of a host work on. */
export interface Premises {
  objects: ObjectSite
  databases: DbSite
  cluster: Cluster
  log: Log
  /** `ip:port` of the servers here: devices of the rings at this address are this host's. */
  address: string
  /** The store as its own client (the whole pipeline, without a token). */
  client: App
  site: Site
}

export interface Progress {
  /** When the pass began, in milliseconds since 1970; 0 before the first. */
  began: number
  /** Milliseconds that the last whole pass took. */
  took: number
  passes: number
  running: boolean
  /** What was done in the pass: seen, sent, quarantined, … */
  counts: Record<string, number>
  error: string | null
}

/** One pass's view: whether to stop, counting, and a limit on its rate. */
export interface Pass {
  signal: AbortSignal
  count(what: string, n?: number): void
  /** Waits so that it is called at most `perSecond` times a second. */
  pace(perSecond: number): Promise<void>
}

export interface Daemon {
  /** `object-auditor` and so on, as Swift names its programs. */
  name: string
  /** Seconds between the end of one pass and the start of the next. */
  every: number
  pass(premises: Premises, pass: Pass): Promise<void>
}

export interface Running {
  progress: Record<string, Progress>
  /** One pass now, whatever the interval; throws what it threw. */
  once(name: string): Promise<Progress>
  stop(): Promise<void>
}

/** Runs daemons until stopped. With `idle` none starts by itself: tests and one-shot commands call `once`. */
export function runDaemons(premises: Premises, daemons: Daemon[], idle = false): Running {
  const stopping = new AbortController()
  const progress: Record<string, Progress> = {}
  for (const { name } of daemons) progress[name] = { began: 0, took: 0, passes: 0, running: false, counts: {}, error: null }
  const once = async (daemon: Daemon): Promise<void> => {
    const state = progress[daemon.name]
    if (state.running) return
    Object.assign(state, { began: Date.now(), running: true, counts: {}, error: null })
    let due = 0
    const pass: Pass = {
      signal: stopping.signal,
      count: (what, n = 1) => {
        state.counts[what] = (state.counts[what] ?? 0) + n
      },
      async pace(perSecond) {
        stopping.signal.throwIfAborted()
        const now = Date.now()
        due = Math.max(due, now - 1000) + 1000 / perSecond
        if (due > now) await pause(due - now, undefined, { signal: stopping.signal })
      },
    }
    try {
      await daemon.pass(premises, pass)
      state.passes += 1
      state.took = Date.now() - state.began
    } catch (error) {
      if (stopping.signal.aborted) return
      state.error = (error as Error).message
      throw error
    } finally {
      state.running = false
    }
  }
  const loop = async (daemon: Daemon): Promise<void> => {
    // spread the first passes, so that a restart of all hosts is no stampede
    let wait = Math.min(daemon.every, 5) * 1000 * Math.random()
    while (!stopping.signal.aborted) {
      try {
        await pause(wait, undefined, { signal: stopping.signal, ref: false })
        await once(daemon)
      } catch (error) {
        if (stopping.signal.aborted) return
        premises.log.error({ err: error, daemon: daemon.name }, 'a pass failed')
      }
      wait = daemon.every * 1000
    }
  }
  const loops = idle ? [] : daemons.map(loop)
  return {
    progress,
    async once(name) {
      const daemon = daemons.find(one => one.name === name)
      if (!daemon) throw new Error(`no daemon ${name}`)
      while (progress[name].running) await pause(5)
      await once(daemon)
      return progress[name]
    },
    async stop() {
      stopping.abort()
      await Promise.all(loops)
    },
  }
}

/** Names of the devices of the rings that are on this host. */
export function devicesHere(premises: Premises): string[] {
  const { cluster, address } = premises
  const names = new Set<string>()
  for (const ring of [cluster.accountRing, cluster.containerRing, ...cluster.policies.map(policy => policy.ring)]) {
    for (const device of ring.devices) {
      if (
        device &&
        (`${device.ip}:${device.port}` === address || `${device.replicationIp}:${device.replicationPort}` === address)
      )
        names.add(device.device)
    }
  }
  return [...names]
}

/** Entries of a folder; none when it is not there. */
export async function entriesOf(dir: string): Promise<string[]> {
  try {
    return await readdir(dir)
  } catch (error) {
    if (failedWith(error, 'ENOENT', 'ENOTDIR', 'EIO', 'EACCES')) return []
    throw error
  }
}

export interface FoundDb {
  device: string
  partition: number
  hash: string
  path: string
}

/** Every account or container database on this host. */
export async function* databasesHere(premises: Premises, kind: 'accounts' | 'containers', pass: Pass): AsyncGenerator<FoundDb> {
  for (const device of devicesHere(premises)) {
    const root = join(premises.databases.root, device, kind)
    for (const partition of await entriesOf(root)) {
      if (!/^\d+$/.test(partition)) continue
      for (const suffix of await entriesOf(join(root, partition))) {
        for (const hash of await entriesOf(join(root, partition, suffix))) {
          pass.signal.throwIfAborted()
          yield { device, partition: Number(partition), hash, path: join(root, partition, suffix, hash, `${hash}.db`) }
        }
      }
    }
  }
}
