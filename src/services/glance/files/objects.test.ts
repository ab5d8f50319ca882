import assert from 'node:assert/strict'
import { test } from 'node:test'
import { placeOf, storeNamed } from '../stores.ts'
import { IN_OBJECTS, imageCloud } from '../testing.ts'
import { filesStore } from './index.ts'

async function* chunks(count: number, size: number): AsyncGenerator<Buffer> {
  for (let i = 0; i < count; i++) yield Buffer.alloc(size, i)
}

test('a file larger than an object is read whole and by ranges across its segments', async t => {
  const { env } = await imageCloud(t, IN_OBJECTS)
  const place = placeOf(env, storeNamed(env))
  const { size } = await filesStore([place], 'large', chunks(10, 100), () => {})
  await filesStore([place], 'empty', chunks(0, 0), () => {})
  assert.equal(size, 1000)
  const read = async (range?: { start: number; end: number }): Promise<Buffer> =>
    Buffer.concat(await (await place.read('large', range)).toArray())
  const whole = Buffer.concat(Array.from({ length: 10 }, (_, i) => Buffer.alloc(100, i)))
  assert.deepEqual(await read(), whole)
  assert.deepEqual(await read({ start: 250, end: 699 }), whole.subarray(250, 700))
  assert.equal(Buffer.concat(await (await place.read('empty')).toArray()).length, 0)
  assert.deepEqual(
    (await place.list()).map(({ name, part, size }) => [name, part, size]),
    [
      ['empty', false, 0],
      ['large', false, 1000],
    ],
  )
  for (const name of ['large', 'empty', 'never there']) await place.remove(name)
  assert.deepEqual(await place.list(), [])
  await assert.rejects(place.read('large'), /no object/)
})

test('an upload that breaks off leaves nothing, and one whose process died is seen as a part', async t => {
  const { env } = await imageCloud(t, IN_OBJECTS)
  const place = placeOf(env, storeNamed(env))
  const broken = async function* (): AsyncGenerator<Buffer> {
    yield* chunks(7, 100)
    throw new Error('gone')
  }
  await assert.rejects(
    filesStore([place], 'broken', broken(), () => {}),
    /gone/,
  )
  assert.deepEqual(await place.list(), [])
  const dead = place.part('dead')
  await dead.open()
  for await (const chunk of chunks(7, 100)) await dead.add(chunk)
  const [one, ...others] = await place.list()
  assert.deepEqual([one?.name, one?.part, one?.size, others], ['dead', true, 600, []])
  assert.ok(one!.age >= 0 && one!.age < 60_000)
  await dead.drop()
  assert.deepEqual(await place.list(), [])
})
