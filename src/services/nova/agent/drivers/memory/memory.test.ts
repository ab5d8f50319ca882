import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import { qcow2Empty } from '#host/qemu/qcow2.ts'
import { conflict } from '#kit/fault.ts'
import type { ImageRef } from '../../../spec.ts'
import { driverContract, specOf } from '../../driver.contract.ts'
import { testGuestImage } from '../../testguest.ts'
import { memoryDriver, memoryWorld } from './index.ts'
import { pretendedScreen } from './pretend.ts'

driverContract('memory', async () => {
  const world = memoryWorld()
  const stalled = new Set<string>()
  return {
    driver: () =>
      memoryDriver({
        world,
        delay: (verb, id) => {
          const root = world.guests.get(id)?.spec.disks[0]
          return verb === 'ensure' && root?.kind === 'image' && stalled.has(root.image.id) ? 3_600_000 : 0
        },
      }),
    image: testGuestImage('memory'),
    shutItself: async (_driver, id) => world.shutItself(id),
    residue: async () => [...world.guests.keys()],
    stall() {
      const image: ImageRef = testGuestImage(`stalled-${stalled.size}`)
      stalled.add(image.id)
      return { image, release: () => void stalled.delete(image.id) }
    },
    close: async () => undefined,
  }
})

test('a verb can be made slow and made to fail', async () => {
  const failing = new Set(['ensure'])
  const driver = memoryDriver({
    world: memoryWorld(),
    delay: () => 5,
    fail: verb => (failing.has(verb) ? conflict(`no ${verb} today`) : undefined),
  })
  await driver.open()
  const spec = specOf(testGuestImage('x'))
  await assert.rejects(driver.ensure(spec), /no ensure today/)
  assert.equal((await driver.inspect(spec.id))?.reason, 'no ensure today')
  failing.clear()
  const began = performance.now()
  assert.equal((await driver.ensure(spec)).reason, undefined)
  assert.ok(performance.now() - began >= 4)
})

test('five thousand guests take little time', async () => {
  const driver = memoryDriver({ world: memoryWorld() })
  await driver.open()
  const image = testGuestImage('x')
  const specs = Array.from({ length: 5000 }, () => specOf(image))
  // Of this process, not of the clock: others may keep the machine busy.
  const began = process.cpuUsage()
  await Promise.all(specs.map(spec => driver.ensure(spec)))
  await Promise.all(specs.map(spec => driver.destroy(spec.id)))
  assert.deepEqual(await driver.list(), [])
  const { user, system } = process.cpuUsage(began)
  assert.ok((user + system) / 1000 < 5000)
})

test('the empty qcow2 is one by the book', async t => {
  const image = qcow2Empty(3 * 2 ** 30)
  assert.equal(image.readUInt32BE(36), 6, 'an L1 entry for each 512 MiB')
  const folder = await mkdtemp(join(tmpdir(), 'nubo-qcow2-'))
  t.after(() => rm(folder, { recursive: true, force: true }))
  await writeFile(join(folder, 'x'), image)
  const checked = await promisify(execFile)('qemu-img', ['check', '-f', 'qcow2', join(folder, 'x')]).catch(
    (error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return t.skip('no qemu-img here')
      throw error
    },
  )
  if (checked) assert.match(checked.stdout, /No errors were found/)
})

test('the pretended screen answers a client to the first picture', async () => {
  const screen = pretendedScreen('web')
  let got = Buffer.alloc(0)
  screen.on('data', chunk => {
    got = Buffer.concat([got, chunk])
  })
  screen.write('RFB 003.008\n')
  screen.write(Buffer.of(1))
  screen.write(Buffer.of(1))
  screen.write(Buffer.of(3, 0, 0, 0, 0, 0, 1, 64, 0, 200))
  await new Promise(resolve => setImmediate(resolve))
  assert.equal(got.subarray(0, 12).toString(), 'RFB 003.008\n')
  assert.deepEqual([...got.subarray(12, 18)], [1, 1, 0, 0, 0, 0])
  assert.equal(got.readUInt16BE(18), 320)
  assert.equal(got.subarray(42, 45).toString(), 'web')
  assert.equal(got.length, 12 + 2 + 4 + 24 + 3 + 16 + 320 * 200 * 4)
})
