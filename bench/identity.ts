/** Identity: what tokens cost, what a password costs besides its hash, and what does not grow with the tables. */
import { randomUUID } from 'node:crypto'
import { availableParallelism } from 'node:os'
import { withDatabase } from '../src/cli/instance/database.ts'
import { layoutOf } from '../src/cli/instance/layout.ts'
import { sql } from '../src/kit/db/index.ts'
import { passwordHash, passwordVerify } from '../src/services/keystone/users/passwords.ts'
import { type BenchCloud, benchCloud, cpuOf } from './cloud.ts'
import { atLeast, atMost, type Bench, type Figure } from './figure.ts'
import { type Caller, caller } from './fill.ts'
import { Agent, beside, type Load, load, median, once } from './load.ts'

const HASHING = { algorithm: 'scrypt' } as const
const CORES = availableParallelism()
/** Each takes some ten seconds; the one in the middle counts. */
const ROUNDS = 3

const tokens = (cloud: BenchCloud, identity: unknown): Pick<Load, 'url' | 'method' | 'headers' | 'body'> => ({
  url: `${cloud.url}/identity/v3/auth/tokens`,
  method: 'POST',
  headers: { 'content-type': 'application/json' },
  body: JSON.stringify({ auth: { identity } }),
})

/** Tokens for an application credential, by the processor time of the whole cloud, its database included: so much one core gives. */
async function appCredentials(cloud: BenchCloud, { call }: Caller, userId: string): Promise<Figure> {
  const { application_credential: made } = await call<{ application_credential: { id: string; secret: string } }>(
    'POST',
    `/identity/v3/users/${userId}/application_credentials`,
    { application_credential: { name: 'bench' } },
  )
  const identity = { methods: ['application_credential'], application_credential: { id: made.id, secret: made.secret } }
  const issue = { ...tokens(cloud, identity), connections: 8 }
  await load({ ...issue, seconds: 1 })
  const rates: number[] = []
  for (let round = 0; round < ROUNDS; round++) {
    const before = cpuOf(cloud)
    const { answered, failed } = await load({ ...issue, seconds: 2 })
    if (failed > 0) throw new Error(`${failed} logins failed`)
    rates.push(answered / (cpuOf(cloud) - before))
  }
  return atLeast(
    'application credential tokens on one core',
    median(rates),
    'tokens/s',
    1000,
    1,
    'by processor time, PostgreSQL included',
  )
}

/** Checks of a password a second with as many at once as there can be, and the processor time of each. */
async function hashesAlone(stored: string, seconds: number): Promise<{ perSecond: number; cores: number }> {
  const [began, cpu] = [performance.now(), process.cpuUsage()]
  const until = began + seconds * 1000
  let done = 0
  const worker = async () => {
    while (performance.now() < until) {
      await passwordVerify('a password', stored, HASHING)
      done++
    }
  }
  await Promise.all(Array.from({ length: 8 }, worker))
  const wall = (performance.now() - began) / 1000
  const { user, system } = process.cpuUsage(cpu)
  return { perSecond: done / wall, cores: (user + system) / 1e6 / wall }
}

/** Milliseconds of a request, the median of those that were sent one after another for so long. */
async function latency(agent: Agent, url: string, headers: Record<string, string>, seconds: number): Promise<number> {
  const times: number[] = []
  const until = performance.now() + seconds * 1000
  while (performance.now() < until) {
    const began = performance.now()
    const { status } = await once(agent, url, { headers })
    if (status !== 200) throw new Error(`${url}: ${status}`)
    times.push(performance.now() - began)
  }
  return median(times)
}

async function passwords(cloud: BenchCloud, admin: Caller): Promise<Figure[]> {
  await admin.call('POST', '/identity/v3/users', { user: { name: 'bench', password: 'a password' } })
  const user = { name: 'bench', password: 'a password', domain: { id: 'default' } }
  const login = { ...tokens(cloud, { methods: ['password'], password: { user } }), connections: 8 }
  const stored = await passwordHash('a password', HASHING)
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  const url = `${cloud.url}/identity/v3/regions/RegionOne`
  const rounds: { alone: number; logins: number; cores: number; quiet: number; busy: number }[] = []
  for (let round = 0; round < ROUNDS; round++) {
    const hashes = await hashesAlone(stored, 3)
    const before = cpuOf(cloud)
    const { perSecond, failed } = await load({ ...login, seconds: 4 })
    if (failed > 0) throw new Error(`${failed} logins failed`)
    const cores = ((cpuOf(cloud) - before) / 4 / hashes.cores) * CORES
    const quiet = await latency(agent, url, admin.headers, 1)
    const [busy] = await Promise.all([latency(agent, url, admin.headers, 2), load({ ...login, seconds: 2 })])
    rounds.push({ alone: hashes.perSecond, logins: perSecond, cores, quiet, busy })
  }
  agent.destroy()
  const middle = (ratio: (round: (typeof rounds)[number]) => number) =>
    rounds.toSorted((x, y) => ratio(x) - ratio(y))[Math.floor(rounds.length / 2)]!
  const fast = middle(one => one.logins / one.alone)
  const slow = middle(one => one.busy / one.quiet)
  return [
    atLeast('password tokens, of what the hash alone gives', fast.logins, 'tokens/s', fast.alone, 0.9),
    atLeast('cores used by them, of those the hash alone uses', median(rounds.map(one => one.cores)), 'cores', CORES, 0.9),
    atMost('another request meanwhile', slow.busy, 'ms', 2 * slow.quiet, `${slow.quiet.toFixed(2)} ms otherwise`),
  ]
}

/** A check of a token that is remembered, before and after so many others were revoked. */
async function revocations(cloud: BenchCloud, admin: Caller): Promise<Figure> {
  const url = `${cloud.url}/identity/v3/regions/RegionOne`
  const cost = async () => {
    const before = cpuOf(cloud)
    const { answered } = await load({ url, connections: 4, seconds: 1.5, headers: admin.headers })
    return (cpuOf(cloud) - before) / answered
  }
  const costs = async () => {
    const all: number[] = []
    for (let round = 0; round < 2 * ROUNDS; round++) all.push(await cost())
    return median(all)
  }
  await cost()
  const few = await costs()
  const rows = Array.from({ length: 10_000 }, () => randomUUID())
  await inDatabase(cloud, db =>
    db.tx(tx =>
      sql`insert into keystone.revocations (audit_id, issued_before) select unnest(${rows}::text[]), now()`.execute(tx),
    ),
  )
  const lots = await costs()
  return atMost(
    'token check with 10,000 revocations',
    lots * 1000,
    'ms',
    few * 1000 * 1.1,
    'processor time; the limit is 1.1 of that without',
  )
}

/** A page of 100 users out of 100 and out of 100,000. */
async function pages(cloud: BenchCloud, admin: Caller): Promise<Figure> {
  const domain = async (name: string, users: number): Promise<string> => {
    const { domain: made } = await admin.call<{ domain: { id: string } }>('POST', '/identity/v3/domains', { domain: { name } })
    await inDatabase(cloud, db =>
      db.tx(tx =>
        sql`insert into keystone.users (id, domain_id, name)
          select replace(gen_random_uuid()::text, '-', ''), ${made.id}, ${name} || i from generate_series(1, ${users}) i`.execute(
          tx,
        ),
      ),
    )
    return made.id
  }
  const [small, large] = [await domain('small', 100), await domain('large', 100_000)]
  await inDatabase(cloud, db => sql`analyze keystone.users`.execute(db.read))
  const page = (id: string): Load => ({
    url: `${cloud.url}/identity/v3/users?domain_id=${id}&limit=100&sort_key=name`,
    connections: 2,
    seconds: 0.5,
    headers: admin.headers,
  })
  const { value: lots, limit: few } = await beside(page(large), page(small))
  return atLeast('pages of 100 of 100,000 users', lots, 'pages/s', few, 1 / 1.5, 'beside pages of 100 of 100')
}

async function inDatabase<T>(
  cloud: BenchCloud,
  work: (db: Parameters<Parameters<typeof withDatabase>[1]>[0]) => Promise<T>,
): Promise<void> {
  await withDatabase({ layout: layoutOf(cloud.data), url: undefined, name: 'nubo bench' }, async db => {
    await work(db)
    return true
  })
}

export const bench: Bench = {
  about: 'tokens for application credentials and passwords; checks with many revocations; pages of many users',
  async run(say) {
    const cloud = await benchCloud('--simulate')
    const admin = await caller(cloud, 4)
    try {
      const token = admin.headers['x-auth-token']!
      const shown = await fetch(`${cloud.url}/identity/v3/auth/tokens`, {
        headers: { ...admin.headers, 'x-subject-token': token },
      })
      const { user } = ((await shown.json()) as { token: { user: { id: string } } }).token
      const figures = [await appCredentials(cloud, admin, user.id)]
      say('passwords')
      figures.push(...(await passwords(cloud, admin)))
      say('revocations and pages')
      figures.push(await revocations(cloud, admin), await pages(cloud, admin))
      return figures
    } finally {
      admin.close()
      await cloud.down()
    }
  },
}
