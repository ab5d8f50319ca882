import assert from 'node:assert/strict'
import { test } from 'node:test'
import { gunzipSync, inflateRawSync } from 'node:zlib'
import { deviceHere } from '../start.ts'
import {
  addDevice,
  balanceOf,
  dispersionOf,
  increasePower,
  newBuilder,
  rebalance,
  removeDevice,
  ringOf,
  setWeight,
} from './builder.ts'
import { formatRing, parseRing } from './io.ts'
import { handoffs, primaries } from './ring.ts'

const made = (n = 6, replicas = 3, power = 8) => {
  const b = newBuilder(power, replicas, 1)
  for (let i = 0; i < n; i++)
    addDevice(b, { ...deviceHere(i, `d${i}`), id: undefined, zone: 1 + (i % 3), ip: `10.0.0.${i}`, weight: 100 * (1 + (i % 2)) })
  rebalance(b, { hour: 1000 })
  return b
}

test('a new ring is balanced by weight and spread over zones', () => {
  const b = made()
  assert.ok(balanceOf(b) < 5, `balance ${balanceOf(b)}`)
  assert.equal(dispersionOf(b), 0)
  const ring = ringOf(b)
  for (let part = 0; part < 256; part++) {
    const places = primaries(ring, part)
    assert.equal(places.length, 3)
    assert.equal(new Set(places.map(place => place.zone)).size, 3)
    const rest = [...handoffs(ring, part)]
    assert.equal(rest.length, 3)
    assert.equal(new Set([...places, ...rest].map(place => place.id)).size, 6)
  }
})

test('a removed device loses all, a heavier one gains, and little moves', () => {
  const b = made()
  removeDevice(b, 0)
  const gone = rebalance(b, { hour: 1001 })
  assert.equal(gone.removed, 1)
  assert.ok(b.table.every(row => !row.includes(0)))
  const before = b.table.map(row => row.slice())
  setWeight(b, 1, 400)
  rebalance(b, { hour: 1010 })
  for (let part = 0; part < 256; part++)
    assert.ok(b.table.filter((row, i) => row[part] !== before[i][part]).length <= 1, 'two replicas of a partition moved at once')
  setWeight(b, 1, 100)
  assert.equal(rebalance(b, { hour: 1010 }).moved < 256, true)
})

test('both versions of the file hold the ring', () => {
  const ring = ringOf(made())
  for (const version of [1, 2] as const) {
    const file = formatRing(ring, version)
    assert.deepEqual(parseRing(file), ring)
    assert.deepEqual(formatRing(ring, version), file)
  }
})

test('sections of version 2 can be unpacked by themselves, as readers do', () => {
  const file = formatRing(ringOf(made()), 2)
  const where = inflateRawSync(file.subarray(file.length - 31), { finishFlush: 2 })
  const index = Number(where.readBigUInt64BE(0))
  const plain = inflateRawSync(file.subarray(index), { finishFlush: 2 })
  const entries = JSON.parse(plain.toString('utf8', 8, 8 + Number(plain.readBigUInt64BE(0)))) as Record<string, [number, number]>
  const [packed, at] = entries['swift/ring/devices']
  const section = inflateRawSync(file.subarray(packed), { finishFlush: 2 })
  const whole = gunzipSync(file)
  assert.ok(section.subarray(0, 100).equals(whole.subarray(at, at + 100)))
})

test('the part power grows without moving anything', () => {
  const b = made()
  const old = ringOf(b).table.map(row => row.slice())
  increasePower(b, 1)
  increasePower(b, 2)
  assert.equal(b.table[0].length, 512)
  for (let part = 0; part < 512; part++) assert.equal(b.table[0][part], old[0][part >> 1])
  increasePower(b, 3)
  assert.throws(() => increasePower(b, 3))
})

test('fractional replicas', () => {
  const b = made(6, 2.5)
  assert.deepEqual(
    b.table.map(row => row.length),
    [256, 256, 128],
  )
  assert.deepEqual(parseRing(formatRing(ringOf(b), 1)), ringOf(b))
})
