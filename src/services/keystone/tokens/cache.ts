// Tokens known to be valid, until something says otherwise. An entry lists the keys (see stale.ts) whose change kills it.

interface Entry<V> {
  value: V
  keys: readonly string[]
}

export interface TokenCache<V> {
  get(token: string): V | undefined
  /** Remembers, unless something went stale since `since` (from `mark`), or the cache is closed. */
  set(token: string, value: V, keys: readonly string[], since: number): void
  mark(): number
  forget(keys: readonly string[]): void
  /** Forgets all, and remembers nothing until `open`: changes may go unheard. */
  close(): void
  open(): void
  size(): number
}

/** A cache of at most `max` entries; the one unused for longest goes first. */
export function tokenCache<V>(max: number): TokenCache<V> {
  const entries = new Map<string, Entry<V>>()
  const byKey = new Map<string, Set<string>>()
  let generation = 0
  let closed = false
  const drop = (token: string) => {
    const entry = entries.get(token)
    if (!entry) return
    entries.delete(token)
    for (const key of entry.keys) {
      const set = byKey.get(key)
      set?.delete(token)
      if (set?.size === 0) byKey.delete(key)
    }
  }
  const clear = () => {
    generation++
    entries.clear()
    byKey.clear()
  }
  let gets = 0
  return {
    get(token) {
      const entry = entries.get(token)
      if (!entry) return undefined
      // Moving an entry to the end at each use would cost more than it gains: every 16th use is enough to stay.
      if ((++gets & 15) === 0) {
        entries.delete(token)
        entries.set(token, entry)
      }
      return entry.value
    },
    set(token, value, keys, since) {
      if (closed || since !== generation || max === 0) return
      drop(token)
      if (entries.size >= max) drop(entries.keys().next().value!)
      entries.set(token, { value, keys })
      for (const key of keys) {
        const set = byKey.get(key)
        if (set) set.add(token)
        else byKey.set(key, new Set([token]))
      }
    },
    mark: () => generation,
    forget(keys) {
      if (keys.includes('all')) return clear()
      generation++
      for (const key of keys) for (const token of [...(byKey.get(key) ?? [])]) drop(token)
    },
    close() {
      closed = true
      clear()
    },
    open() {
      clear()
      closed = false
    },
    size: () => entries.size,
  }
}
