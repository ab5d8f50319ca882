import { setTimeout as delay } from 'node:timers/promises'
import { benchCloud, cpuOf, pssOf } from './cloud.ts'
import { atMost, type Bench } from './figure.ts'
import { median } from './load.ts'

/** Seconds over which the CPU at rest is taken. */
const REST = 30

export const bench: Bench = {
  about: 'a second `nubo up --detach` until all APIs answer; memory and CPU at rest',
  async run(say) {
    const real = process.getuid?.() === 0
    const cloud = await benchCloud(...(real ? [] : ['--simulate']))
    try {
      const times: number[] = []
      for (let round = 0; round < 5; round++) {
        await cloud.nubo('down')
        const began = performance.now()
        await cloud.nubo('up', '--detach', '--listen', cloud.url.slice('http://'.length), ...(real ? [] : ['--simulate']))
        times.push((performance.now() - began) / 1000)
      }
      say(`at rest for ${REST} s`)
      await delay(10_000)
      const pids = cloud.pids()
      const before = cpuOf(pids)
      await delay(REST * 1000)
      const cpu = ((cpuOf(pids) - before) / REST) * 100
      const kind = real ? 'controller, agent and PostgreSQL' : 'simulated'
      return [
        atMost('second up --detach to all APIs answering', median(times), 's', 2),
        atMost('memory at rest (PSS)', pssOf(cloud.pids()), 'MiB', 250, kind),
        atMost('CPU at rest', cpu, '% of a core', 1, kind),
      ]
    } finally {
      await cloud.down()
    }
  },
}
