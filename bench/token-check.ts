import { benchCloud, cpuOf } from './cloud.ts'
import type { Bench } from './figure.ts'
import { atLeast, atMost } from './figure.ts'
import { beside, load, rawServer } from './load.ts'

export const bench: Bench = {
  about: 'a GET that checks a token, beside raw node:http that sends the same bytes; CPU of it',
  async run() {
    const cloud = await benchCloud('--simulate')
    try {
      const token = await cloud.token()
      const url = `${cloud.url}/identity/v3/auth/tokens`
      const headers = { 'x-auth-token': token, 'x-subject-token': token }
      const raw = await rawServer(await (await fetch(url, { headers })).text())
      const { value, limit } = await beside(
        { url, connections: 8, seconds: 0.5, headers },
        { url: raw.url, connections: 8, seconds: 0.5, headers },
      )
      await raw.close()
      const before = cpuOf(cloud)
      const { answered } = await load({ url, connections: 8, seconds: 5, headers })
      const cpu = ((cpuOf(cloud) - before) / answered) * 1000
      return [atLeast('token check on a GET', value, 'requests/s', limit, 1 / 2), atMost('CPU of a token check', cpu, 'ms', 0.15)]
    } finally {
      await cloud.down()
    }
  },
}
