import assert from 'node:assert/strict'
import { appendFileSync, statSync } from 'node:fs'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { suffixHashes } from './hashes.ts'

test('hashes follow the log of changes, and are written only when they changed', async t => {
  const root = await mkdtemp(join(tmpdir(), 'swift-hashes-'))
  t.after(() => rm(root, { recursive: true, force: true }))
  const partition = join(root, 'd/objects/7')
  const put = async (suffix: string, time: string): Promise<void> => {
    const dir = join(partition, suffix, `${'0'.repeat(29)}${suffix}`)
    await mkdir(dir, { recursive: true })
    await writeFile(join(dir, `${time}.data`), '')
  }
  const hashes = () => suffixHashes({ root, device: 'd' }, 0, 7, [], 604800)
  const file = join(partition, 'hashes.json')
  await put('abc', '1700000000.00000')
  const first = await hashes()
  assert.deepEqual(Object.keys(first), ['abc'])
  const { ino } = statSync(file)
  assert.deepEqual(await hashes(), first)
  assert.equal(statSync(file).ino, ino, 'not written again')

  await put('abc', '1700000001.00000')
  appendFileSync(join(partition, 'hashes.invalid'), 'abc\n')
  const second = await hashes()
  assert.notEqual(second.abc, first.abc)
  assert.notEqual(statSync(file).ino, ino)
  await put('def', '1700000001.00000')
  appendFileSync(join(partition, 'hashes.invalid'), 'def\n')
  assert.deepEqual(Object.keys(await hashes()).sort(), ['abc', 'def'])
  await rm(join(partition, 'def'), { recursive: true })
  assert.deepEqual(await hashes(), second)
})
