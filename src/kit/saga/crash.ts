/**
 * The test that every saga gets: killed at each point at which a process can die, failed at each of its steps, and both together.
 * Nothing of it is written by hand for a saga; its author gives a world and says what must hold in the end.
 */
import type { TestContext } from 'node:test'
import { badRequest } from '../fault.ts'
import type { Env } from '../service.ts'
import { Killed } from './execution.ts'
import type { Saga } from './index.ts'
import { sagaRunner } from './runner.ts'

/** A fresh world for one run: its own database, its own memory drivers. */
export interface SagaWorld {
  env: Env
  sagas: readonly Saga<never>[]
  /** Writes the rows and starts the saga, as its route does. */
  start(): Promise<void>
  /** What must hold when all is over. `failed` names the step that was made to fail, if one was. Throws when it does not hold. */
  check(failed: string | undefined): Promise<void>
  close?(): Promise<void>
}

/**
 * Runs the saga once to learn its points and steps; then once for each point with a kill there and a recovery; then once for each step
 * with a failure there, and again for each point of that with a kill. `skip` names steps that cannot fail (the last one, say).
 */
export async function killAtEveryStep(
  t: TestContext,
  make: () => Promise<SagaWorld>,
  options: { skip?: string[] } = {},
): Promise<void> {
  const { points, steps } = await once(make, undefined, undefined)
  for (let at = 0; at < points.length; at++) {
    await t.test(`killed at ${points[at]}`, async () => void (await once(make, at, undefined)))
  }
  for (const failing of steps.filter(step => !options.skip?.includes(step))) {
    const undoing = await once(make, undefined, failing)
    const from = undoing.points.indexOf(`${failing}: failed`)
    for (let at = Math.max(0, from); at < undoing.points.length; at++) {
      await t.test(`failed at ${failing}, killed at ${undoing.points[at]}`, async () => void (await once(make, at, failing)))
    }
  }
}

async function once(
  make: () => Promise<SagaWorld>,
  killAt: number | undefined,
  failAt: string | undefined,
): Promise<{ points: string[]; steps: string[] }> {
  const world = await make()
  const points: string[] = []
  const steps: string[] = []
  const sabotage = (step: string): void => {
    if (!steps.includes(step)) steps.push(step)
    if (step === failAt) throw badRequest(`made to fail at ${step}`)
  }
  const probe = (point: string): void => {
    points.push(point)
    if (points.length - 1 === killAt) throw new Killed(`killed at ${point}`)
  }
  try {
    const first = await sagaRunner({ env: world.env, sagas: world.sagas, name: 'test', probe, sabotage })
    await world.start()
    await first.idle()
    await first.stop()
    if (killAt !== undefined) {
      const second = await sagaRunner({ env: world.env, sagas: world.sagas, name: 'test', sabotage })
      await second.idle()
      await second.stop()
    }
    await world.check(failAt)
  } finally {
    await world.close?.()
  }
  return { points, steps }
}
