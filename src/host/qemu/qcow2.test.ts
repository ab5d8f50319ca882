import assert from 'node:assert/strict'
import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { programPath } from '../programs.ts'
import { run } from '../run.ts'
import { imgCheck, imgInfo } from './img.ts'
import { qcow2Empty } from './qcow2.ts'

const skip = programPath('qemu-img') && programPath('qemu-io') ? false : 'needs qemu-img and qemu-io'

test('qemu finds an empty image whole, of its size and over its backing file', { skip }, async t => {
  const folder = await mkdtemp(join(tmpdir(), 'nubo-qcow2-'))
  t.after(() => rm(folder, { recursive: true }))
  const base = join(folder, 'a base, with: odd=signs')
  await writeFile(base, Buffer.alloc(512, 7))
  await truncate(base, 1 << 20)
  for (const format of ['raw', 'qcow2'] as const) {
    const under = join(folder, `${format}-base`)
    await run(['qemu-img', 'convert', '-f', 'raw', '-O', format, base, under])
    for (const bytes of [1 << 20, 512 << 20, (512 << 20) + 1, 20 * 2 ** 30, 9 * 2 ** 40]) {
      const path = join(folder, 'overlay')
      await writeFile(path, qcow2Empty(bytes, { path: under, format }))
      const info = await imgInfo(path, 'qcow2')
      assert.equal(info.virtualSize, Math.ceil(bytes / 512) * 512)
      assert.deepEqual([info.backingFile, info.backingFormat, info.clusterSize], [under, format, 65_536])
      assert.deepEqual(await imgCheck(path, 'qcow2'), { corruptions: 0, leaks: 0 })
      // What is in the base shows through; what is written is there, at the end too, and the base is as it was.
      const end = Math.floor(bytes / 512) * 512 - 512
      const commands = ['read -P 7 0 512', 'read -P 0 512 512', 'write -P 9 0 512', `write -P 8 ${end} 512`]
      await io(path, [...commands, 'read -P 9 0 512', `read -P 8 ${end} 512`])
      assert.deepEqual(await imgCheck(path, 'qcow2'), { corruptions: 0, leaks: 0 })
      await run(['qemu-img', 'compare', '-f', 'raw', '-F', format, base, under])
    }
  }
})

test('one without a backing file; paths that cannot be in a header are refused', { skip }, async t => {
  const folder = await mkdtemp(join(tmpdir(), 'nubo-qcow2-'))
  t.after(() => rm(folder, { recursive: true }))
  const path = join(folder, 'blank')
  await writeFile(path, qcow2Empty(3 * 2 ** 30))
  const info = await imgInfo(path, 'qcow2')
  assert.deepEqual([info.virtualSize, info.backingFile], [3 * 2 ** 30, undefined])
  assert.deepEqual(await imgCheck(path, 'qcow2'), { corruptions: 0, leaks: 0 })
  for (const bad of ['relative', '/with\0zero', `/${'x'.repeat(1023)}`])
    assert.throws(() => qcow2Empty(512, { path: bad, format: 'raw' }), TypeError)
})

/** qemu-io ends well whatever a pattern is: what it says tells. */
async function io(path: string, commands: string[]): Promise<void> {
  const { stdout } = await run(['qemu-io', '-f', 'qcow2', ...commands.flatMap(command => ['-c', command]), path])
  assert.doesNotMatch(stdout, /failed|error/i, stdout)
}
