import { benchCloud, cpuOf } from './cloud.ts'
import type { Bench } from './figure.ts'
import { atLeast, atMost } from './figure.ts'
import { inTurns, load, rawServer } from './load.ts'

export const bench: Bench = {
  about: 'a GET whose token is checked, beside raw node:http; CPU of it',
  async run() {
    const cloud = await benchCloud('--simulate')
    try {
      const token = await cloud.token()
      const url = `${cloud.url}/identity/v3/regions/RegionOne`
      const headers = { 'x-auth-token': token }
      const body = await (await fetch(url, { headers })).text()
      const raw = await rawServer(body)
      const [checked, limit] = await inTurns([
        { url, connections: 8, seconds: 2, headers },
        { url: raw.url, connections: 8, seconds: 2, headers },
      ])
      await raw.close()
      const pids = cloud.pids()
      const before = cpuOf(pids)
      const { answered } = await load({
        url: `${cloud.url}/identity/v3/auth/tokens`,
        connections: 8,
        seconds: 4,
        headers: { ...headers, 'x-subject-token': token },
      })
      const cpu = ((cpuOf(pids) - before) / answered) * 1000
      return [
        atLeast('token check on a GET', checked!, 'requests/s', limit!, 0.5),
        atMost('CPU of a token check', cpu, 'ms', 0.15),
      ]
    } finally {
      await cloud.down()
    }
  },
}
