/**
 * LISTEN on a connection of its own, kept for as long as anything listens. When it breaks, `onLost` is called at once and the
 * connection is made again with growing pauses; then `onBack`. Notifications sent in between are lost: that is why a listener
 * is a wake-up only, with a poll behind it, and why a cache is dropped at both moments.
 */
import { setTimeout as delay } from 'node:timers/promises'
import pg from 'pg'
import type { Listening } from './index.ts'

interface Ear extends Listening {
  fn: (payload: string) => void
}

export interface Listener {
  listen(channel: string, fn: (payload: string) => void, listening?: Listening): Promise<() => void>
  close(): Promise<void>
}

const RETRY_MS = { first: 50, longest: 2000 }

/** Makes the listener of one database. `report` hears why the connection was lost and each failure to get it back. */
export function listener(config: pg.ClientConfig, report: (error: Error) => void): Listener {
  const channels = new Map<string, Set<Ear>>()
  const stop = new AbortController()
  let client: pg.Client | undefined
  let connecting: Promise<pg.Client> | undefined

  const ears = (): Ear[] => [...channels.values()].flatMap(set => [...set])

  async function connect(): Promise<pg.Client> {
    const fresh = new pg.Client({ ...config, keepAlive: true })
    let lost = false
    const onLost = (error: Error): void => {
      if (lost) return
      lost = true
      if (client !== fresh) return
      client = undefined
      if (stop.signal.aborted) return
      report(error)
      for (const ear of ears()) ear.onLost?.()
      if (channels.size > 0) void reconnect()
    }
    fresh.on('error', onLost)
    fresh.on('end', () => onLost(new Error('the LISTEN connection ended')))
    fresh.on('notification', ({ channel, payload }) => {
      for (const ear of channels.get(channel) ?? []) ear.fn(payload ?? '')
    })
    await fresh.connect()
    // Listening alone keeps no process alive. (pg has the method, its types lack it.)
    ;(fresh as pg.Client & { unref(): void }).unref()
    for (const channel of channels.keys()) await fresh.query(`listen ${pg.escapeIdentifier(channel)}`)
    if (lost) throw new Error('the LISTEN connection ended')
    client = fresh
    return fresh
  }

  /** The connection, made at most once at a time. */
  function connected(): Promise<pg.Client> {
    if (client) return Promise.resolve(client)
    connecting ??= connect().finally(() => {
      connecting = undefined
    })
    return connecting
  }

  async function reconnect(): Promise<void> {
    for (let pause = RETRY_MS.first; !stop.signal.aborted; pause = Math.min(pause * 2, RETRY_MS.longest)) {
      try {
        await connected()
        for (const ear of ears()) ear.onBack?.()
        return
      } catch (error) {
        if (stop.signal.aborted) return
        report(error as Error)
        await delay(pause, undefined, { ref: false, signal: stop.signal }).catch(() => {})
      }
    }
  }

  return {
    async listen(channel, fn, listening = {}) {
      const ear: Ear = { ...listening, fn }
      const set = channels.get(channel) ?? new Set()
      channels.set(channel, set.add(ear))
      const drop = () => {
        set.delete(ear)
        if (set.size > 0 || channels.get(channel) !== set) return
        channels.delete(channel)
        // Not awaited: a notification that still comes finds no ear.
        client?.query(`unlisten ${pg.escapeIdentifier(channel)}`).catch(report)
      }
      try {
        // Again even if the connection was just made with it: two LISTENs are one.
        await (await connected()).query(`listen ${pg.escapeIdentifier(channel)}`)
      } catch (error) {
        drop()
        throw error
      }
      return drop
    },
    async close() {
      stop.abort()
      channels.clear()
      await connecting?.catch(() => {})
      const last = client
      client = undefined
      await last?.end()
    },
  }
}
