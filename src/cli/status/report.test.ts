import assert from 'node:assert/strict'
import { test } from 'node:test'
import { report, type Status, span, troubles } from './report.ts'

const now = new Date('2026-01-01T12:00:00Z')
const before = (seconds: number): Date => new Date(now.getTime() - seconds * 1000)

const well: Status = {
  instance: { url: 'http://127.0.0.1:5000', pid: 7, simulated: 0, why: null },
  services: [{ name: 'nova', type: 'compute', path: '/compute' }],
  controllers: [{ name: 'c1', address: null, up: true, seenAt: before(3), operations: 0 }],
  hosts: [{ name: 'h1', up: true, since: before(7500), lastSeenAt: before(3), connectedTo: ['c1'] }],
  operations: [],
  failingTasks: [],
  events: [],
  unsettled: [],
}

test('lengths of time read at a glance', () => {
  assert.deepEqual([0, 119_000, 120_000, 3_599_000, 7_200_000, 7_800_000, 172_800_000, 180_000_000].map(span), [
    '0 s',
    '119 s',
    '2 min',
    '59 min',
    '2 h',
    '2 h 10 min',
    '2 d',
    '2 d 2 h',
  ])
})

test('a cloud at rest needs nothing', () => {
  assert.deepEqual(troubles(well, now), [])
  const text = report(well, now)
  assert.match(text, /Nubo runs at http:\/\/127\.0\.0\.1:5000 \(process 7\)/)
  assert.match(text, /h1 {2}up for 2 h 5 min, at c1/)
  assert.match(text, /All is well\.\n$/)
})

test('an operation says its step, since when, until when, and why it waits', () => {
  const operation = {
    resource: 'nova.server:1',
    name: 'nova.server.create',
    state: 'running',
    began: before(100),
    step: 'boot',
    since: before(90),
    deadline: before(-30),
    attempts: 2,
    error: 'no space left',
    owner: 'c1',
  }
  const text = report({ ...well, operations: [operation] }, now)
  assert.match(
    text,
    / {2}nova\.server:1 {2}nova\.server\.create: step boot for 90 s, 30 s left, try 2, by c1; began 100 s ago\n {6}last error: no space left/,
  )
  assert.deepEqual(troubles({ ...well, operations: [operation] }, now), [], 'an operation in progress is nothing wrong')
  const late = { ...operation, deadline: before(10) }
  assert.deepEqual(troubles({ ...well, operations: [late] }, now), ['1 operations are past the deadline of their step'])
})

test('what is wrong is said, each thing once', () => {
  const ill: Status = {
    ...well,
    instance: { ...well.instance!, why: 'connect ECONNREFUSED' },
    controllers: [{ name: 'c1', address: null, up: false, seenAt: before(60), operations: 0 }],
    hosts: [{ name: 'h1', up: false, since: null, lastSeenAt: null, connectedTo: [] }],
    failingTasks: [{ name: 'glance.sweep', ranAt: before(5), error: 'EACCES' }],
    events: [{ name: 'nova.server.deleted', count: 2, oldest: before(50), attempts: 3, error: 'broken' }],
    unsettled: [{ service: 'nova', what: 'server', id: 's', state: 'BUILD', since: before(900), why: null }],
  }
  assert.equal(troubles(ill, now).length, 7)
  const text = report(ill, now)
  for (const words of [
    'h1  AWAY, never seen',
    'glance.sweep  5 s ago: EACCES',
    '2, the oldest for 50 s: broken',
    'server s  BUILD for 15 min',
  ])
    assert(text.includes(words), words)
})

test('long lists are cut', () => {
  const hosts = Array.from({ length: 1000 }, (_, i) => ({ ...well.hosts[0]!, name: `h${i}`, up: i !== 999 }))
  const text = report({ ...well, hosts }, now)
  assert.match(text, /Hosts: 999 of 1000 up\n {2}h999 {2}AWAY/)
  assert.match(text, /… and 950 more/)
})
