import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { machineClaim, machineForget, machineOwner } from './machine.ts'

test('a machine belongs to one agent while it runs, and while guests of it are there', async t => {
  const folder = mkdtempSync(join(tmpdir(), 'nubo-machine-'))
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  const [run, a, b] = ['run', 'a', 'b'].map(name => join(folder, name)) as [string, string, string]

  const first = await machineClaim(a, run)
  await assert.rejects(machineClaim(b, run), new RegExp(`files are in ${a}: it runs`))
  await assert.rejects(machineClaim(a, run), /it runs/)
  first.release()

  const guest = join(a, 'nova', 'guests', 'one')
  mkdirSync(guest, { recursive: true })
  await assert.rejects(machineClaim(b, run), /1 of its guests are here/)
  const again = await machineClaim(a, run)
  again.release()

  rmSync(guest, { recursive: true })
  const second = await machineClaim(b, run)
  await assert.rejects(machineClaim(a, run), new RegExp(`files are in ${b}`))
  second.release()

  machineForget(a, run)
  assert.equal(machineOwner(run), b, 'not its own to forget')
  machineForget(b, run)
  assert.equal(machineOwner(run), undefined)
})
