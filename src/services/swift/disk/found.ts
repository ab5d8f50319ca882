/**
 * One object on one device: the files of its hash folder, and which of them count.
 *
 *     1700000000.00000.data               the object (replicated)
 *     1700000000.00000#3.data             fragment 3 of an erasure-coded object, not yet known to be durable
 *     1700000000.00000#3#d.data           the same, durable: enough fragments are stored elsewhere
 *     1700000001.00000+1f.meta            metadata of a later POST; the suffix is the time of its content type
 *     1700000002.00000.ts                 a tombstone
 *
 * The newest of `.data` and `.ts` decides; a `.meta` counts when it is newer than that. All else is obsolete.
 */
import { decodePair, encodePair } from '../timestamp.ts'

export interface Part {
  name: string
  timestamp: string
  kind: 'data' | 'meta' | 'ts'
  /** `.meta`: when its content type was set, where that differs. */
  typeTime: string | null
  /** Erasure coding: which fragment, and whether it is durable. */
  fragment: number | null
  durable: boolean
}

export interface Found {
  data: Part | null
  meta: Part | null
  tombstone: Part | null
  /** Erasure coding: all fragments here of the version chosen, and of newer versions that are not durable yet. */
  fragments: Part[]
  obsolete: string[]
  /** Every name in the folder. */
  all: string[]
}

export const NOTHING: Found = { data: null, meta: null, tombstone: null, fragments: [], obsolete: [], all: [] }

/** The parts of a file's name; null for names that are not ours. */
export function parseName(name: string): Part | null {
  const dot = name.lastIndexOf('.')
  const kind = name.slice(dot + 1)
  const stem = name.slice(0, dot)
  if (kind === 'ts') return { name, timestamp: stem, kind, typeTime: null, fragment: null, durable: true }
  if (kind === 'meta') {
    const [timestamp, typeTime] = decodePair(stem)
    return { name, timestamp, kind, typeTime, fragment: null, durable: true }
  }
  if (kind !== 'data') return null
  const [timestamp, fragment, durable] = stem.split('#')
  return {
    name,
    timestamp,
    kind,
    typeTime: null,
    fragment: fragment === undefined ? null : Number(fragment),
    durable: fragment === undefined || durable === 'd',
  }
}

const byTime = (a: Part, b: Part): number =>
  a.timestamp < b.timestamp ? 1 : a.timestamp > b.timestamp ? -1 : a.name < b.name ? 1 : -1

/** Sorts out the names of one hash folder. `fragment`: the one wanted, when several are here. Pure. */
export function sortOut(
  names: string[],
  options: { fragment?: number | null; notDurable?: boolean; tombstonesBefore?: string; time?: string } = {},
): Found {
  const parts = names.map(parseName).filter(part => part !== null)
  parts.sort(byTime)
  const found: Found = { data: null, meta: null, tombstone: null, fragments: [], obsolete: [], all: names }
  const end = parts.find(part => part.kind === 'ts' || (part.kind === 'data' && part.durable))
  const durableTimes = new Set(parts.filter(part => part.kind === 'data' && part.durable).map(part => part.timestamp))
  for (const part of parts) {
    const isOld = end !== undefined && part.timestamp < end.timestamp
    if (part.kind === 'meta') {
      if (isOld || (found.meta && part !== found.meta)) found.obsolete.push(part.name)
      else found.meta = part
    } else if (part.kind === 'ts') {
      if (part !== end) found.obsolete.push(part.name)
      else if (options.tombstonesBefore && part.timestamp < options.tombstonesBefore) found.obsolete.push(part.name)
      else found.tombstone = part
    } else if (isOld || (end?.kind === 'ts' && part.timestamp <= end.timestamp)) found.obsolete.push(part.name)
    else if (part.fragment === null) found.data = part
    else found.fragments.push(part)
  }
  if (end?.kind === 'ts' && options.tombstonesBefore && end.timestamp < options.tombstonesBefore) found.tombstone = null
  if (found.fragments.length) {
    const usable = found.fragments.filter(
      part =>
        (part.durable || durableTimes.has(part.timestamp) || options.notDurable) &&
        (!options.time || part.timestamp === options.time),
    )
    const time = usable[0]?.timestamp
    const same = usable.filter(part => part.timestamp === time)
    found.data = (options.fragment == null ? same[0] : same.find(part => part.fragment === options.fragment)) ?? null
    if (found.data) found.data = { ...found.data, durable: found.data.durable || durableTimes.has(found.data.timestamp) }
  }
  if (found.meta && !found.data && !found.fragments.length && end === undefined) found.meta = null
  return found
}

/** The newest thing that happened to the object here, as a timestamp; null when nothing did. */
export const newest = (found: Found): string | null => {
  const times = [found.data?.timestamp, found.tombstone?.timestamp, found.meta?.timestamp].filter(time => time !== undefined)
  return times.length ? times.reduce((a, b) => (a > b ? a : b)) : null
}

/** Names of files. */
export const dataName = (timestamp: string, fragment?: number | null, durable = false): string =>
  fragment == null ? `${timestamp}.data` : `${timestamp}#${fragment}${durable ? '#d' : ''}.data`
export const metaName = (timestamp: string, typeTime: string | null): string =>
  `${encodePair(timestamp, typeTime === timestamp ? null : typeTime)}.meta`
