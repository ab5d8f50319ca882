import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { test } from 'node:test'
import { Fault } from '#kit/fault.ts'
import { testCloud } from '#kit/http/test.ts'
import { candidates, claim, placement, providerEnsure, release, usagesOf } from './index.ts'

const inventory = (total: number, more = {}) => ({
  total,
  reserved: 0,
  min_unit: 1,
  max_unit: total,
  step_size: 1,
  allocation_ratio: 1,
  ...more,
})
const who = { projectId: 'p1', userId: 'u1', type: 'INSTANCE' }

test('a provider is written once and again only when it changed', async t => {
  const { db } = await testCloud(t, [placement])
  const state = {
    id: randomUUID(),
    name: 'h1',
    inventories: { VCPU: inventory(4), CUSTOM_GOLD: inventory(1) },
    traits: ['HW_CPU_X86_VMX', 'CUSTOM_FAST'],
  }
  const generation = async () =>
    (await db.read.selectFrom('placement.providers').select('generation').executeTakeFirstOrThrow()).generation
  await db.tx(tx => providerEnsure(tx, state))
  const first = await generation()
  await db.tx(tx => providerEnsure(tx, state))
  assert.equal(await generation(), first)
  await db.tx(tx => providerEnsure(tx, { ...state, inventories: { VCPU: inventory(8) }, traits: [] }))
  assert.equal(await generation(), first + 1)
  assert.deepEqual(await usagesOf(db.read, state.id), { VCPU: 0 })
})

test('candidates have room, the traits that are wanted and none that is not', async t => {
  const { db } = await testCloud(t, [placement])
  const ids: string[] = []
  for (let i = 0; i < 20; i++) {
    const id = randomUUID()
    ids.push(id)
    await db.tx(tx =>
      providerEnsure(tx, {
        id,
        name: `h${i}`,
        inventories: { VCPU: inventory(i), MEMORY_MB: inventory(1024, { allocation_ratio: 1.5 }) },
        traits: i % 2 ? ['HW_CPU_X86_VMX'] : [],
        aggregates: i > 15 ? ['agg'] : [],
      }),
    )
  }
  const names = async (query: object) =>
    (await candidates(db.read, { resources: { VCPU: 10 }, limit: 100, ...query })).map(c => c.name).sort()
  assert.equal((await names({})).length, 10)
  assert.deepEqual(await names({ required: ['HW_CPU_X86_VMX'] }), ['h11', 'h13', 'h15', 'h17', 'h19'])
  assert.deepEqual(await names({ forbidden: ['HW_CPU_X86_VMX'], memberOf: [['agg', 'other']] }), ['h16', 'h18'])
  assert.deepEqual(await names({ notMemberOf: ['agg'], among: ids.slice(14) }), ['h14', 'h15'])
  assert.deepEqual(await names({ resources: { VCPU: 1, MEMORY_MB: 1100 } }), [], 'more than the largest unit')
  assert.equal((await candidates(db.read, { resources: { VCPU: 10 }, limit: 3 })).length, 3)
  await db.tx(tx => claim(tx, 'c1', who, { [ids[19]!]: { VCPU: 10 } }))
  assert.ok(!(await names({})).includes('h19'))
  await db.tx(tx => release(tx, 'c1'))
  assert.ok((await names({})).includes('h19'))
})

test('a hundred claims at once for the last unit: one gets it', async t => {
  const { db } = await testCloud(t, [placement])
  const id = randomUUID()
  await db.tx(tx => providerEnsure(tx, { id, name: 'h', inventories: { VCPU: inventory(5, { reserved: 4 }) }, traits: [] }))
  const outcomes = await Promise.allSettled(
    Array.from({ length: 100 }, (_, i) => db.tx(tx => claim(tx, `c${i}`, who, { [id]: { VCPU: 1 } }))),
  )
  assert.equal(outcomes.filter(o => o.status === 'fulfilled').length, 1)
  for (const o of outcomes)
    if (o.status === 'rejected') assert.ok(o.reason instanceof Fault && o.reason.status === 409, String(o.reason))
  assert.deepEqual(await usagesOf(db.read, id), { VCPU: 1 })
})
