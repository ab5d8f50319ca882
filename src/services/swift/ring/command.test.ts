import assert from 'node:assert/strict'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { openLog } from '#kit/log.ts'
import { dispersionCommand, populate, report } from '../dispersion.ts'
import { type NodeConfig, startNode } from '../node.ts'
import { ringCommand } from './command.ts'
import { loadRing } from './io.ts'
import { watchRings } from './watch.ts'

test('a ring is made, changed, grown and given out by words', async t => {
  const dir = await mkdtemp(join(tmpdir(), 'swift-ring-'))
  t.after(() => rm(dir, { recursive: true, force: true }))
  const file = join(dir, 'object.builder')
  const lines: string[] = []
  const ring = (...argv: string[]): Promise<number> => ringCommand([file, ...argv], text => lines.push(text))
  await ring('create', '6', '3', '1')
  await assert.rejects(ring('create', '6', '3', '1'), /there already/)
  await ring('add', 'z1-10.0.0.1:6200/d1', '100', 'z2-10.0.0.2:6200/d1', '100', 'r1z3-[fd00::3]:6200R10.1.0.3:6201/d1_new', '100')
  await assert.rejects(ring('add', 'z1-nowhere/d1', '1'), /is no device/)
  await assert.rejects(ring('set_weight', 'z9', '1'), /there is no device 'z9'/)
  await assert.rejects(ring('set_weight', 'd0', 'heavy'), /'heavy' is no weight/)
  await assert.rejects(ring('write_ring'), /rebalance first/)
  assert.equal(await ring('rebalance', '--seed', '7'), 0)
  assert.equal(await ring('rebalance', '--seed', '7'), 1, 'nothing is left to move')
  assert.equal(await ring('validate'), 0)
  lines.length = 0
  await ring('search', 'z3')
  assert.deepEqual(lines, ['d2  r1z3-[fd00::3]:6200R10.1.0.3:6201/d1_new  weight 100  64 parts'])
  const path = join(dir, 'object.ring.gz')
  const rings = watchRings(openLog({ level: 'fatal' }), 3600)
  t.after(() => rings.stop())
  const watched = await rings.load(path)
  await ring('prepare_increase_partition_power')
  await rings.look()
  assert.equal(watched.nextPartPower, 7)
  await assert.rejects(ring('finish_increase_partition_power'), /was not increased/)
  await ring('increase_partition_power')
  await ring('finish_increase_partition_power')
  const grown = await loadRing(path)
  assert.deepEqual([grown.partShift, grown.nextPartPower, grown.table[0].length], [25, null, 128])
  await rm(file)
  await ring('write_builder', '1')
  assert.equal(await ring('validate'), 0)
  await assert.rejects(ring('dance'), /there is no word 'dance'/)
  assert.ok((await readFile(file)).length > 0)
})

test('the dispersion report finds every copy, and those that are gone', async t => {
  const dir = await mkdtemp(join(tmpdir(), 'swift-dispersion-'))
  t.after(() => rm(dir, { recursive: true, force: true }))
  const quiet = (): void => {}
  const port = 20_000 + (process.pid % 20_000)
  for (const name of ['account', 'container', 'object']) {
    const file = join(dir, `${name}.builder`)
    await ringCommand([file, 'create', '4', '2', '1'], quiet)
    const devices = ['d1', 'd2'].flatMap(device => [`z1-127.0.0.1:${port}/${device}`, '100'])
    await ringCommand([file, 'add', ...devices], quiet)
    await ringCommand([file, 'rebalance'], quiet)
  }
  const ring = (name: string): string => join(dir, `${name}.ring.gz`)
  const config: NodeConfig = {
    secrets: { prefix: 'a', suffix: 'b' },
    rings: { account: ring('account'), container: ring('container') },
    policies: [{ index: 0, name: 'gold', default: true, ring: ring('object') }],
    storage: { root: dir, ip: '127.0.0.1', port },
  }
  const { mkdir } = await import('node:fs/promises')
  for (const device of ['d1', 'd2']) await mkdir(join(dir, device))
  const node = await startNode(config, openLog({ level: 'fatal' }))
  t.after(() => node.close())
  assert.ok((await populate(node, 50)) >= 16)
  assert.equal(await populate(node, 50), 0, 'a second time finds all there')
  const before = await report(node)
  assert.deepEqual(
    before.map(({ what, copies, expected }) => [what, copies === expected, expected >= 16]),
    [
      ['containers', true, true],
      ['objects of gold', true, true],
    ],
  )
  await rm(join(dir, 'd2', 'objects'), { recursive: true })
  const [, objects] = await report(node)
  assert.deepEqual([objects.copies, objects.lacking], [objects.asked, [objects.asked]])
  await assert.rejects(dispersionCommand(['report'], quiet), /--config/)
})
