/**
 * One instance a data folder: a lock that the kernel lets go of when its last holder ends, however it ends. It belongs to the open file, which
 * the instance hands to its controller too: so whoever starts after a crash waits until the last process of the one before has gone.
 */
import { closeSync, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { flock } from '#host/flock.ts'
import type { Layout } from './layout.ts'

export interface Lock {
  /** The open file: a child that is given it holds the lock too. */
  fd: number
  release(): void
}

export interface Waiting {
  /** Called once when another holds the lock; with its process id as it wrote it. */
  onHeld(pid: number | undefined): void
  /** Asked now and then while waiting: true ends it. */
  enough(): boolean
  /** Longest wait in ms; for ever unless given. */
  ms?: number
}

const fileOf = (layout: Layout): string => join(layout.data, 'lock')

/** Takes the lock of this data folder, which must exist; waits while another holds it. Resolves to undefined when that was enough. */
export async function lockTake(
  layout: Layout,
  { onHeld, enough, ms = Number.POSITIVE_INFINITY }: Waiting,
): Promise<Lock | undefined> {
  const fd = openSync(fileOf(layout), 'a', 0o600)
  try {
    if (!(await flock(fd, ['-n']))) {
      onHeld(holder(layout))
      const until = performance.now() + ms
      // In slices: the file tells nobody that its holder has become ready.
      do {
        if (enough() || performance.now() > until) {
          closeSync(fd)
          return undefined
        }
      } while (!(await flock(fd, ['-w', '0.2'])))
    }
    ftruncateSync(fd)
    writeSync(fd, `${process.pid}\n`)
    return { fd, release: () => closeSync(fd) }
  } catch (error) {
    closeSync(fd)
    throw error
  }
}

/** The process that holds the lock, as it said. */
function holder(layout: Layout): number | undefined {
  const pid = Number(readFileSync(fileOf(layout), 'utf8'))
  return pid > 0 ? pid : undefined
}
