import { setTimeout as delay } from 'node:timers/promises'
import { benchCloud, cpuOf, pssOf } from './cloud.ts'
import { atMost, type Bench } from './figure.ts'
import { median } from './load.ts'

/** Seconds after the start until nothing of it is left to do, and over which the CPU at rest is taken. */
const SETTLE = 20
const REST = 60

export const bench: Bench = {
  about: 'a second `nubo up --detach` until all APIs answer; memory and CPU at rest',
  async run(say) {
    const real = process.getuid?.() === 0
    const args = real ? [] : ['--simulate']
    const cloud = await benchCloud(...args)
    try {
      const times: number[] = []
      for (let round = 0; round < 5; round++) {
        await cloud.nubo('down')
        const began = performance.now()
        await cloud.nubo('up', '--detach', '--listen', cloud.url.slice('http://'.length), ...args)
        times.push((performance.now() - began) / 1000)
      }
      say(`at rest for ${SETTLE + REST} s`)
      await delay(SETTLE * 1000)
      const before = cpuOf(cloud)
      await delay(REST * 1000)
      const cpu = ((cpuOf(cloud) - before) / REST) * 100
      const kind = real ? 'controller, agent and PostgreSQL' : 'simulated'
      return [
        atMost('second up --detach to all APIs answering', median(times), 's', 2, kind),
        atMost('memory at rest (PSS)', pssOf(cloud), 'MiB', 250, kind),
        atMost('CPU at rest', cpu, '% of a core', 1, kind),
      ]
    } finally {
      await cloud.down()
    }
  },
}
