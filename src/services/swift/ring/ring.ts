/**
 * The ring: which devices hold a partition. A name's hash gives its partition (the top bits); a table per replica gives the device of
 * each partition. What comes after the primaries (handoffs) is derived, in an order that spreads over regions, zones and hosts first.
 */
import { createHash } from 'node:crypto'
import { type HashSecrets, hashBytes } from '../hash.ts'
import type { Device, Place } from '../http/client.ts'

export interface Ring {
  /** Bits of the hash to shift away: 32 minus the part power. */
  partShift: number
  /** By id; null where a device was removed. */
  devices: (Device | null)[]
  /** For each replica the device ids of its partitions; the last may be shorter (fractional replicas). */
  table: Uint32Array[]
  version: number
  nextPartPower: number | null
}

export const partitions = (ring: Ring): number => 2 ** (32 - ring.partShift)
export const partPower = (ring: Ring): number => 32 - ring.partShift
export const replicas = (ring: Ring): number => ring.table.length

/** The partition of 16 hash bytes. */
export const partitionOf = (ring: Ring, hash: Buffer): number =>
  ring.partShift === 32 ? 0 : hash.readUInt32BE(0) >>> ring.partShift

/** The partition of a name. */
export const partitionFor = (
  ring: Ring,
  secrets: HashSecrets,
  account: string,
  container?: string | null,
  object?: string | null,
): number => partitionOf(ring, hashBytes(secrets, account, container, object))

/** The devices that should hold a partition, one a replica, none twice. */
export function primaries(ring: Ring, partition: number): Place[] {
  const places: Place[] = []
  const seen = new Set<number>()
  for (const row of ring.table) {
    if (partition >= row.length) continue
    const id = row[partition]
    const device = ring.devices[id]
    if (!device || seen.has(id)) continue
    seen.add(id)
    places.push({ ...device, index: places.length, handoff: false })
  }
  return places
}

/** All other devices, the most distant in failure domain first. Lazy: most requests never look. */
export function* handoffs(ring: Ring, partition: number): Generator<Place> {
  const used = new Set<number>()
  const regions = new Set<number>()
  const zones = new Set<string>()
  const hosts = new Set<string>()
  const take = (device: Device): void => {
    used.add(device.id)
    regions.add(device.region)
    zones.add(`${device.region} ${device.zone}`)
    hosts.add(`${device.region} ${device.zone} ${device.ip}`)
  }
  for (const place of primaries(ring, partition)) take(place)
  const count = partitions(ring)
  const start = createHash('md5').update(String(partition)).digest().readUInt32BE(0) % count
  const step = Math.max(1, Math.floor(count / 65536))
  const live = ring.devices.filter(device => device !== null && device.weight > 0) as Device[]
  const isNew: ((device: Device) => boolean)[] = [
    device => !regions.has(device.region),
    device => !zones.has(`${device.region} ${device.zone}`),
    device => !hosts.has(`${device.region} ${device.zone} ${device.ip}`),
    () => true,
  ]
  let index = 0
  for (const wanted of isNew) {
    if (!live.some(device => !used.has(device.id) && wanted(device))) continue
    for (let i = 0; i < count && used.size < live.length; i += step) {
      const at = (start + i) % count
      for (const row of ring.table) {
        if (at >= row.length) continue
        const device = ring.devices[row[at]]
        if (!device || used.has(device.id) || !wanted(device)) continue
        take(device)
        yield { ...device, index: index++, handoff: true }
      }
    }
  }
}

/** A ring in which every partition is on each device in turn: for one machine, or tests. Weights are not looked at. */
export function evenRing(devices: Device[], replicaCount: number, power: number): Ring {
  const count = 2 ** power
  const n = Math.min(replicaCount, devices.length)
  const table = Array.from({ length: n }, (_, replica) =>
    Uint32Array.from({ length: count }, (_, part) => devices[(part + replica) % devices.length].id),
  )
  return { partShift: 32 - power, devices, table, version: 1, nextPartPower: null }
}
