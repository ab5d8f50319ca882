/** Rings that follow their files: an operator copies a new `.ring.gz` over the old one, and every process goes on with it. */
import { stat } from 'node:fs/promises'
import type { Log } from '#kit/log.ts'
import { loadRing } from './io.ts'
import type { Ring } from './ring.ts'

export interface WatchedRings {
  /** The ring of a file; the same object is changed when the file is. Throws when it cannot be read. */
  load(path: string): Promise<Ring>
  /** Looks at all files now. One that cannot be read is logged, and its ring stays as it is. */
  look(): Promise<void>
  stop(): void
}

/** Looks at the files every `seconds`. */
export function watchRings(log: Log, seconds = 15): WatchedRings {
  const known = new Map<string, { ring: Ring; stamp: string }>()
  const stampOf = async (path: string): Promise<string> => {
    const { ino, size, mtimeMs } = await stat(path)
    return `${ino} ${size} ${mtimeMs}`
  }
  const watched: WatchedRings = {
    async load(path) {
      const found = known.get(path)
      if (found) return found.ring
      const stamp = await stampOf(path)
      const ring = await loadRing(path)
      known.set(path, { ring, stamp })
      return ring
    },
    async look() {
      for (const [path, entry] of known) {
        try {
          const stamp = await stampOf(path)
          if (stamp === entry.stamp) continue
          Object.assign(entry.ring, await loadRing(path))
          entry.stamp = stamp
          log.warn({ ring: path, version: entry.ring.version }, 'a ring has changed')
        } catch (error) {
          log.error({ err: error, ring: path }, 'a ring cannot be read: the one before stays')
        }
      }
    },
    stop: () => clearInterval(timer),
  }
  const timer = setInterval(() => void watched.look(), seconds * 1000).unref()
  return watched
}
