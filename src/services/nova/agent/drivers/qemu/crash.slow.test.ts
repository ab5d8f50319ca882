// The agent is killed (kill -9) at instants all through ensure, destroy, suspend and resume. The next agent converges: the guest runs, once, on
// its one disk, or nothing of it is left.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { after, before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import type { GuestSpec } from '../../../spec.ts'
import { booted, specOf, until } from '../../driver.contract.ts'
import { qemuPlace, unable } from './testing.ts'

const CHILD = fileURLToPath(new URL('crash.child.ts', import.meta.url))
type Host = Awaited<ReturnType<typeof qemuPlace>>

/** Runs a verb in a process that is killed `ms` after it began it; gives whether it had finished. */
async function killedAfter(place: Host, verb: string, spec: GuestSpec, ms: number): Promise<boolean> {
  const child = spawn(process.execPath, [CHILD, place.dataDir, verb, JSON.stringify(spec)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let done = false
  const begun = Promise.withResolvers<void>()
  createInterface({ input: child.stdout }).on('line', line => {
    if (line === 'begin') begun.resolve()
    if (line === 'done') done = true
  })
  const ended = once(child, 'exit')
  await Promise.race([begun.promise, ended])
  await new Promise(resolve => setTimeout(resolve, ms))
  child.kill('SIGKILL')
  await ended
  return done
}

/** Instants from 0 on, `step` apart, until the verb finishes before it is killed (and at most `most` of them). */
async function throughout(step: number, most: number, fn: (ms: number) => Promise<boolean>): Promise<void> {
  for (let n = 0; n < most; n++) if (await fn(n * step)) return
}

describe('an agent that is killed', { skip: unable() }, () => {
  let place: Host
  before(async () => {
    place = await qemuPlace()
  })
  after(async () => {
    await place.close()
  })

  test('while it makes a guest', async () => {
    await throughout(60, 14, async ms => {
      const spec = specOf(place.image)
      const done = await killedAfter(place, 'ensure', spec, ms)
      const driver = place.driver()
      await driver.open()
      assert.equal((await driver.ensure(spec)).power, 'running', `killed after ${ms} ms`)
      await booted(driver, spec.id, 1)
      assert.ok(!(await driver.consoleOutput(spec.id)).includes('boot 2'), 'its disk was made once and it booted once')
      await driver.destroy(spec.id)
      assert.deepEqual(await place.residue(), [], `killed after ${ms} ms`)
      await driver.close()
      return done
    })
  })

  test('while it makes a guest that nobody wants after', async () => {
    await throughout(100, 8, async ms => {
      const spec = specOf(place.image)
      const done = await killedAfter(place, 'ensure', spec, ms)
      const driver = place.driver()
      await driver.open()
      await driver.destroy(spec.id)
      assert.deepEqual(await place.residue(), [], `killed after ${ms} ms`)
      await driver.close()
      return done
    })
  })

  test('while it destroys a guest', async () => {
    await throughout(40, 10, async ms => {
      const spec = specOf(place.image)
      const first = place.driver()
      await first.open()
      await first.ensure(spec)
      await first.close()
      const done = await killedAfter(place, 'destroy', spec, ms)
      const driver = place.driver()
      await driver.open()
      // What was begun is finished without being asked; what was not begun is a guest that runs.
      await until(async () => (await driver.inspect(spec.id))?.destroying !== true, 'the destroy is finished')
      if (await driver.inspect(spec.id)) await driver.destroy(spec.id)
      assert.deepEqual(await place.residue(), [], `killed after ${ms} ms`)
      await driver.close()
      return done
    })
  })

  test('while it suspends and resumes a guest', async () => {
    const spec = specOf(place.image)
    const first = place.driver()
    await first.open()
    await first.ensure(spec)
    await booted(first, spec.id, 1)
    await first.close()
    let boots = 1
    for (const verb of ['suspend', 'resume'])
      await throughout(40, 12, async ms => {
        const prepare = place.driver()
        await prepare.open()
        await prepare.power(spec.id, verb === 'suspend' ? 'running' : 'suspended')
        await prepare.close()
        const done = await killedAfter(place, verb, spec, ms)
        const driver = place.driver()
        await driver.open()
        assert.equal((await driver.power(spec.id, 'running')).power, 'running', `${verb} killed after ${ms} ms`)
        // The guest lives on: the same boot answers on its serial port, and its disk has not been through another.
        const port = await driver.console(spec.id, 'serial')
        port.write('x')
        assert.equal(
          String((await once(port, 'data', { signal: AbortSignal.timeout(5000) }))[0]),
          'x',
          `${verb} killed after ${ms} ms`,
        )
        port.destroy()
        boots = (await driver.consoleOutput(spec.id)).match(/boot \d/g)?.length ?? 0
        await driver.close()
        return done
      })
    assert.equal(boots, 1, 'no memory was lost')
    const last = place.driver()
    await last.open()
    await last.destroy(spec.id)
    assert.deepEqual(await place.residue(), [])
    await last.close()
  })
})
