import assert from 'node:assert/strict'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { look, removeAll } from './destroy/things.ts'
import { run } from './destroy.ts'
import { dataEnsure, layoutMake, layoutOf } from './instance/layout.ts'
import { UsageError } from './usage.ts'

function folder(t: TestContext): string {
  const made = mkdtempSync(join(tmpdir(), 'nubo-destroy-'))
  t.after(() => rmSync(made, { recursive: true, force: true }))
  return made
}

test('what Nubo made goes, what the operator put there stays, and a second time is fine', async t => {
  const layout = layoutOf(join(folder(t), 'data'))
  dataEnsure(layout)
  layoutMake(layout, undefined)
  for (const path of [layout.clouds, layout.state, layout.log]) writeFileSync(path, '{}')
  mkdirSync(join(layout.controller, 'images'))
  writeFileSync(layout.config, 'nubo: {log_level: debug}\n')

  const found = await look(layout)
  assert.equal(found.networks, false, 'a machine that was no host of it')
  assert.deepEqual(
    found.things.map(thing => thing.name).filter(name => !name.startsWith(layout.data)),
    [],
  )
  assert(found.left.some(line => line.startsWith(layout.config)))

  await removeAll(layout, found.networks)
  assert.deepEqual(readdirSync(layout.data), ['nubo.yaml'])
  await removeAll(layout, false)
  rmSync(layout.config)
  await removeAll(layout, false)
  assert(!existsSync(layout.data), 'an empty folder goes too')
  assert.equal(await run(['--data', layout.data]), 0)
})

test('a folder that Nubo did not make is refused, and nobody is asked without a terminal', async t => {
  const foreign = folder(t)
  writeFileSync(join(foreign, 'postgres'), 'mine')
  await assert.rejects(
    run(['--data', foreign, '--yes']),
    (e: unknown) => e instanceof UsageError && /was not made by Nubo/.test(e.message),
  )
  assert(existsSync(join(foreign, 'postgres')))

  const layout = layoutOf(folder(t))
  dataEnsure(layout)
  if (!process.stdin.isTTY) await assert.rejects(run(['--data', layout.data]), /give --yes/)
  assert(existsSync(layout.mark))
})
