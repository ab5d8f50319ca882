/**
 * Finds links whose far end is gone without having said so (power, a cut cable, a stopped process). One timer for all links of the process;
 * a link on which anything came since the last look costs nothing. It counts looks, not time, so that a process that was itself stopped for
 * a minute does not take all its links for dead.
 */

/** What the watch needs of a link. */
export interface Watched {
  /** Set on every message; cleared by each look. */
  heard: boolean
  silent: number
  ping(): void
  close(reason: string): void
}

const EVERY_MS = 5000
/** Silent looks until a ping, and until the link is taken for dead. */
const PING_AT = 1
const DEAD_AT = 4

const links = new Set<Watched>()
let timer: NodeJS.Timeout | undefined

/** One look at all links: exported for tests, which have no 20 seconds. */
export function look(at: Iterable<Watched> = [...links]): void {
  for (const link of at) {
    link.silent = link.heard ? 0 : link.silent + 1
    link.heard = false
    if (link.silent >= DEAD_AT) link.close(`silent for ${(DEAD_AT * EVERY_MS) / 1000} s`)
    else if (link.silent >= PING_AT) link.ping()
  }
}

/** Watches a link from now on. */
export function watch(link: Watched): void {
  links.add(link)
  timer ??= setInterval(() => look(), EVERY_MS).unref()
}

/** Stops watching; the last one stops the timer. */
export function unwatch(link: Watched): void {
  if (links.delete(link) && links.size === 0) {
    clearInterval(timer)
    timer = undefined
  }
}
