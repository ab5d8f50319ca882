import { passwordHash, passwordVerify } from '../src/services/keystone/users/passwords.ts'
import { benchCloud } from './cloud.ts'
import type { Bench } from './figure.ts'
import { atLeast } from './figure.ts'
import { load } from './load.ts'

const HASHING = { algorithm: 'scrypt' } as const

/** Checks of a password a second, with as many at once as there can be. */
async function hashesAlone(seconds: number): Promise<number> {
  const stored = await passwordHash('a password', HASHING)
  const until = performance.now() + seconds * 1000
  let done = 0
  const worker = async () => {
    while (performance.now() < until) {
      await passwordVerify('a password', stored, HASHING)
      done++
    }
  }
  await Promise.all(Array.from({ length: 8 }, worker))
  return done / seconds
}

export const bench: Bench = {
  about: 'tokens for application credentials, and for passwords beside what the hash alone allows',
  async run() {
    const cloud = await benchCloud('--simulate')
    try {
      const token = await cloud.token()
      const v3 = `${cloud.url}/identity/v3`
      const headers = { 'x-auth-token': token, 'content-type': 'application/json' }
      const post = async (path: string, body: unknown) =>
        (await fetch(v3 + path, { method: 'POST', headers, body: JSON.stringify(body) })).json()
      const shown = (await (await fetch(`${v3}/auth/tokens`, { headers: { ...headers, 'x-subject-token': token } })).json()) as {
        token: { user: { id: string } }
      }
      const user = shown.token.user.id
      const made = (await post(`/users/${user}/application_credentials`, { application_credential: { name: 'bench' } })) as {
        application_credential: { id: string; secret: string }
      }
      const { id, secret } = made.application_credential
      const issue = (identity: unknown) => ({
        url: `${v3}/auth/tokens`,
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ auth: { identity } }),
      })
      const byCredential = await load({
        ...issue({ methods: ['application_credential'], application_credential: { id, secret } }),
        connections: 8,
        seconds: 4,
      })
      await post('/users', { user: { name: 'bench', password: 'a password' } })
      const alone = await hashesAlone(4)
      const byPassword = await load({
        ...issue({
          methods: ['password'],
          password: { user: { name: 'bench', password: 'a password', domain: { id: 'default' } } },
        }),
        connections: 8,
        seconds: 6,
      })
      return [
        atLeast('application credential tokens', byCredential.perSecond, 'tokens/s', 1000, 1),
        atLeast('password tokens', byPassword.perSecond, 'tokens/s', alone, 0.9),
      ]
    } finally {
      await cloud.down()
    }
  },
}
