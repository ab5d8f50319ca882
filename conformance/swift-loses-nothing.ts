/**
 * Loses servers, devices, hosts, bytes and space under load, and says whether an acknowledged object was ever not there.
 *
 *     conformance/swift-loses-nothing [--long] [--seconds N] [--rounds N] [--clients 64] [--only kill,device,…]
 *
 * Each fault lasts `seconds` under load, in every round. `--long`: 15 seconds, 3 rounds; without it 3 seconds, one round.
 *
 * Runs as process 1 of unshared namespaces with a bridge; each host has a network namespace of its own on it. What must hold, per fault and at the end:
 * every GET of an acknowledged object answers its bytes; after healing the listing is what was stored, each object has its copies on its
 * own devices and nowhere else, and nothing else is there.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdir, open, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { Agent, request } from 'node:http'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { run } from '#host/run.ts'
import { sortOut } from '../src/services/swift/disk/found.ts'
import { hashName } from '../src/services/swift/hash.ts'
import type { NodeConfig } from '../src/services/swift/node.ts'
import { addDevice, newBuilder, rebalance, ringOf } from '../src/services/swift/ring/builder.ts'
import { saveRing } from '../src/services/swift/ring/io.ts'
import { partitionFor, primaries, type Ring } from '../src/services/swift/ring/ring.ts'

const { values } = parseArgs({
  options: {
    long: { type: 'boolean', default: false },
    seconds: { type: 'string' },
    rounds: { type: 'string' },
    clients: { type: 'string', default: '64' },
    only: { type: 'string' },
  },
})
const SECONDS = Number(values.seconds ?? (values.long ? 15 : 3))
const ROUNDS = Number(values.rounds ?? (values.long ? 3 : 1))
const HOSTS = 5
/** The host whose device is a file system of its own, so that it can be full. */
const SMALL = 5
const secrets = { prefix: 'conformance', suffix: 'loses-nothing' }
/** Made by the script that starts this one, named after its process, so that the next run can tell whether it is still needed. */
const dir = process.env.data!
const name = (host: number): string => `host${host}`
const ip = (host: number): string => `10.99.77.${host}`
const began = performance.now()
const say = (line: string): void => console.log(`${((performance.now() - began) / 1000).toFixed(0).padStart(4)} s  ${line}`)
const problems: string[] = []
const wrong = (line: string): void => {
  problems.push(line)
  if (problems.length < 30) say(`  WRONG ${line}`)
}

// --- the machines -------------------------------------------------------------------------------------------------------------

const deviceDir = (host: number, device: string): string => join(dir, `host${host}`, device)

async function network(): Promise<void> {
  await run(['ip', 'link', 'set', 'lo', 'up'])
  await run(['ip', 'link', 'add', 'br0', 'type', 'bridge'])
  await run(['ip', 'addr', 'add', `${ip(254)}/24`, 'dev', 'br0'])
  await run(['ip', 'link', 'set', 'br0', 'up'])
  for (let host = 1; host <= HOSTS; host++) {
    await run(['ip', 'netns', 'add', name(host)])
    await run(['ip', 'link', 'add', `v${host}`, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', name(host)])
    await run(['ip', 'link', 'set', `v${host}`, 'master', 'br0', 'up'])
    await run(['ip', '-n', name(host), 'addr', 'add', `${ip(host)}/24`, 'dev', 'eth0'])
    await run(['ip', '-n', name(host), 'link', 'set', 'eth0', 'up'])
    await run(['ip', '-n', name(host), 'link', 'set', 'lo', 'up'])
  }
}

let gold: Ring
let code: Ring

async function rings(): Promise<void> {
  const make = (replicas: number, devices: string[]): Ring => {
    const b = newBuilder(6, replicas, 0)
    for (let host = 1; host <= HOSTS; host++) {
      for (const device of devices)
        addDevice(b, {
          region: 1,
          zone: host,
          ip: ip(host),
          port: 6200,
          replicationIp: ip(host),
          replicationPort: 6200,
          device,
          weight: 100,
          meta: '',
        })
    }
    rebalance(b)
    return ringOf(b)
  }
  gold = make(3, ['d'])
  code = make(6, ['d', 'e'])
  await saveRing(join(dir, 'gold.ring.gz'), gold)
  await saveRing(join(dir, 'ec.ring.gz'), code)
  for (let host = 1; host <= HOSTS; host++) {
    for (const device of ['d', 'e']) await mkdir(deviceDir(host, device), { recursive: true })
    if (host === SMALL) await run(['mount', '-t', 'tmpfs', '-o', 'size=256m', 'tmpfs', deviceDir(host, 'd')])
  }
}

const config = (own: Partial<NodeConfig>): NodeConfig => ({
  secrets,
  rings: { account: join(dir, 'gold.ring.gz'), container: join(dir, 'gold.ring.gz') },
  policies: [
    { index: 0, name: 'gold', default: true, ring: join(dir, 'gold.ring.gz') },
    { index: 1, name: 'ec', ring: join(dir, 'ec.ring.gz'), code: { data: 4, parity: 2, segmentSize: 65536, duplication: 1 } },
  ],
  logLevel: 'error',
  connectTimeout: 1,
  nodeTimeout: 4,
  fragmentGrace: 0,
  ...own,
})

const children = new Map<string, ChildProcess>()

async function start(who: string, own: Partial<NodeConfig>, netns?: string): Promise<void> {
  const file = join(dir, `${who}.json`)
  await writeFile(file, JSON.stringify(config(own)))
  const command = [process.execPath, new URL('../src/services/swift/node.ts', import.meta.url).pathname, file]
  const argv = netns ? ['ip', 'netns', 'exec', netns, ...command] : command
  const log = await open(join(dir, `${who}.log`), 'a')
  const child = spawn(argv[0], argv.slice(1), { stdio: ['ignore', 'pipe', log.fd] })
  children.set(who, child)
  await Promise.race([
    once(child.stdout!, 'data'),
    once(child, 'exit').then(() => Promise.reject(new Error(`${who} did not start: see ${dir}/${who}.log`))),
  ])
  await log.close()
}

const startHost = (host: number): Promise<void> =>
  start(`host${host}`, { storage: { root: join(dir, `host${host}`), ip: ip(host), port: 6200, reserve: 0 } }, name(host))

async function kill(who: string): Promise<void> {
  const child = children.get(who)!
  child.kill('SIGKILL')
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
}

// --- the clients --------------------------------------------------------------------------------------------------------------

const agent = new Agent({ keepAlive: true, maxSockets: 200 })

interface Answer {
  status: number
  body: Buffer
}

function ask(
  method: string,
  path: string,
  headers: Record<string, string> = {},
  body?: Buffer,
  to = { host: '127.0.0.1', port: 8080 },
  timeout = 120_000,
): Promise<Answer> {
  return new Promise(resolve => {
    const outgoing = request(
      {
        ...to,
        agent,
        method,
        path,
        headers: {
          ...headers,
          ...(body
            ? { 'content-length': String(body.length) }
            : method === 'PUT' || method === 'POST'
              ? { 'content-length': '0' }
              : {}),
        },
        timeout,
      },
      incoming => {
        const parts: Buffer[] = []
        incoming.on('data', part => parts.push(part as Buffer))
        incoming.on('end', () => resolve({ status: incoming.complete ? incoming.statusCode! : 0, body: Buffer.concat(parts) }))
        incoming.on('error', () => resolve({ status: 0, body: Buffer.concat(parts) }))
      },
    )
    outgoing.on('timeout', () => outgoing.destroy())
    outgoing.on('error', () => resolve({ status: 0, body: Buffer.alloc(0) }))
    outgoing.end(body)
  })
}

let token = ''
const call = (method: string, path: string, headers: Record<string, string> = {}, body?: Buffer): Promise<Answer> =>
  ask(method, `/v1/AUTH_test${path}`, { 'x-auth-token': token, ...headers }, body)

/** What each name may hold: MD5s of the bytes it may have; null for "not there". One for certain, several after a write of unknown outcome. */
const known = new Map<string, (string | null)[]>()
const md5 = (bytes: Buffer): string => createHash('md5').update(bytes).digest('hex')
const counts = { put: 0, get: 0, delete: 0, refused: 0, stale: 0 }

const CONTAINERS = { gold: 'box-gold', ec: 'box-ec' } as const
type PolicyName = keyof typeof CONTAINERS
const POLICIES = Object.keys(CONTAINERS) as PolicyName[]

async function client(id: number, until: () => boolean): Promise<void> {
  const mine: string[] = []
  const container = CONTAINERS[POLICIES[id % POLICIES.length]]
  const any = (): string => mine[Math.floor(Math.random() * mine.length)]
  for (let n = 0; !until(); n++) {
    const dice = Math.random()
    if (mine.length === 0 || dice < 0.45)
      await put(mine, dice < 0.05 && mine.length ? any() : `${container}/c${id}-${Date.now()}-${n}`)
    else if (dice < 0.95) await check(any())
    else await remove(any())
  }
}

async function put(mine: string[], path: string): Promise<void> {
  const size = Math.random() < 0.8 ? Math.floor(Math.random() * 8192) : Math.floor(Math.random() * 400_000)
  const body = randomBytes(size)
  const { status } = await call('PUT', `/${path}`, {}, body)
  const before = known.get(path) ?? [null]
  if (status === 201) {
    known.set(path, [md5(body)])
    counts.put += 1
  } else {
    known.set(path, [...before, md5(body)])
    counts.refused += 1
  }
  if (!mine.includes(path)) mine.push(path)
}

async function remove(path: string): Promise<void> {
  const { status } = await call('DELETE', `/${path}`)
  if (status === 204 || status === 404) {
    known.set(path, [null])
    counts.delete += 1
  } else known.set(path, [...(known.get(path) ?? [null]), null])
}

async function check(path: string, patient = false): Promise<void> {
  for (let attempt = 0; ; attempt++) {
    const may = known.get(path)!
    const { status, body } = await call('GET', `/${path}`, { 'x-newest': 'true' })
    if (known.get(path) !== may) return // written meanwhile
    const found = status === 200 ? md5(body) : status === 404 ? null : undefined
    counts.get += 1
    if (found !== undefined && may.includes(found)) {
      if (patient) known.set(path, [found])
      return
    }
    // a GET cut off in the middle or refused in the instant of a fault may be asked again, as clients do; wrong bytes may not
    if (found === undefined && attempt < (patient ? 6 : 4)) {
      counts.refused += 1
      await pause(500)
      continue
    }
    wrong(`${path}: ${status}, ${body.length} bytes, ${found}; acknowledged ${may.join(' or ')}`)
    return
  }
}

// --- the faults ---------------------------------------------------------------------------------------------------------------

const pick = (): number => 1 + Math.floor(Math.random() * HOSTS)

async function* filesBelow(root: string, ending: string): AsyncGenerator<string> {
  for (const entry of await readdir(root, { recursive: true, withFileTypes: true })) {
    if (entry.isFile() && entry.name.endsWith(ending) && !entry.parentPath.includes('quarantined'))
      yield join(entry.parentPath, entry.name)
  }
}

async function flip(path: string): Promise<void> {
  const file = await open(path, 'r+')
  const { size } = await file.stat()
  const at = Math.floor(Math.random() * size)
  const byte = Buffer.alloc(1)
  await file.read(byte, 0, 1, at)
  byte[0] ^= 1 << Math.floor(Math.random() * 8)
  await file.write(byte, 0, 1, at)
  await file.close()
}

const wait = (): Promise<void> => pause(SECONDS * 1000)

const FAULTS: Record<string, () => Promise<void>> = {
  async kill() {
    for (let i = 0; i < 3; i++) {
      const host = pick()
      await kill(`host${host}`)
      await pause((SECONDS * 1000) / 3)
      await startHost(host)
    }
  },
  async partition() {
    const host = pick()
    await run(['ip', 'link', 'set', `v${host}`, 'down'])
    await wait()
    await run(['ip', 'link', 'set', `v${host}`, 'up'])
  },
  async flip() {
    // one damaged copy of each object at most: on one host
    const host = pick()
    for await (const path of filesBelow(join(dir, `host${host}`), '.data'))
      if (Math.random() < 0.5) await flip(path).catch(() => {})
    await wait()
  },
  async device() {
    // replicas lie on the devices `d`, fragments on all: one of the replicas' and two of the fragments', never the one that can be full
    const lose = (): number => 1 + Math.floor(Math.random() * (HOSTS - 1))
    const lost = [deviceDir(lose(), 'd'), deviceDir(lose(), 'e')]
    for (const device of lost) await rename(device, `${device}.lost`)
    await wait()
    for (const device of lost) {
      await mkdir(device) // a new, empty disk in its place
      await rm(`${device}.lost`, { recursive: true })
    }
  },
  async full() {
    const filler = join(deviceDir(SMALL, 'd'), 'filler')
    const file = await open(filler, 'w')
    const zeros = Buffer.alloc(1024 * 1024)
    try {
      for (;;) await file.write(zeros)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error
    } finally {
      await file.close()
    }
    await wait()
    await rm(filler)
  },
}

// --- healing and the last look ------------------------------------------------------------------------------------------------

async function pass(host: number, daemon: string): Promise<Record<string, number>> {
  // a pass that makes good the loss of two devices may take minutes on a busy machine
  const { status, body } = await ask('POST', `/recon/run/${daemon}`, {}, undefined, { host: ip(host), port: 6200 }, 1_800_000)
  if (status !== 200) throw new Error(`${daemon} on host ${host}: ${status} ${body.toString()}`)
  return (JSON.parse(body.toString()) as { counts: Record<string, number> }).counts
}

async function heal(): Promise<void> {
  const daemons = [
    'object-auditor',
    'container-auditor',
    'account-auditor',
    'object-replicator',
    'object-reconstructor',
    'container-replicator',
    'account-replicator',
    'object-updater',
    'container-replicator',
    'container-updater',
  ]
  for (let round = 1; round <= 8; round++) {
    let work = 0
    for (const daemon of daemons) {
      const hosts = Array.from({ length: HOSTS }, (_, i) => i + 1)
      for (const [i, done] of (await Promise.all(hosts.map(host => pass(host, daemon)))).entries()) {
        const CHANGES = ['sent', 'removed', 'quarantined', 'delivered', 'rows', 'rebuilt', 'committed', 'failures']
        const changed = CHANGES.reduce((sum, what) => sum + (done[what] ?? 0), 0)
        work += changed
        if (changed && round > 3) say(`    host ${i + 1}, ${daemon}: ${JSON.stringify(done)}`)
      }
    }
    say(`  healing, round ${round}: ${work} changes`)
    if (work === 0) return
  }
}

async function lastLook(policy: PolicyName): Promise<void> {
  const container = CONTAINERS[policy]
  const paths = [...known.keys()].filter(path => path.startsWith(`${container}/`))
  for (let at = 0; at < paths.length; at += 16) await Promise.all(paths.slice(at, at + 16).map(path => check(path, true)))
  const alive = new Set(paths.filter(path => known.get(path)![0] !== null).map(path => path.slice(container.length + 1)))
  const listed = new Set<string>()
  for (let marker = ''; ; ) {
    const { body } = await call('GET', `/${container}?limit=10000&marker=${encodeURIComponent(marker)}`)
    const names = body.toString().split('\n').filter(Boolean)
    for (const one of names) listed.add(one)
    if (names.length < 10_000) break
    marker = names.at(-1)!
  }
  for (const one of alive) if (!listed.has(one)) wrong(`${container}/${one} is stored but not listed`)
  for (const one of listed) if (!alive.has(one)) wrong(`${container}/${one} is listed but not stored`)
  await copies(container, policy, alive)
}

/** Each live object on exactly its devices, and no data of anything else. */
async function copies(container: string, policy: PolicyName, alive: Set<string>): Promise<void> {
  const ring = policy === 'ec' ? code : gold
  const folder = policy === 'ec' ? 'objects-1' : 'objects'
  const wanted = new Map<string, { path: string; places: string[] }>()
  for (const one of alive) {
    const partition = partitionFor(ring, secrets, 'AUTH_test', container, one)
    const places = primaries(ring, partition).map(place => `${place.ip}/${place.device}`)
    wanted.set(hashName(secrets, 'AUTH_test', container, one), { path: `${container}/${one}`, places })
  }
  const found = new Map<string, string[]>()
  for (let host = 1; host <= HOSTS; host++) {
    for (const device of ['d', 'e']) {
      const root = join(deviceDir(host, device), folder)
      for (const partition of await readdir(root).catch(() => [])) {
        for (const suffix of await readdir(join(root, partition)).catch(() => [])) {
          if (!/^[0-9a-f]{3}$/.test(suffix)) continue
          for (const hash of await readdir(join(root, partition, suffix))) {
            const sorted = sortOut(await readdir(join(root, partition, suffix, hash)), { notDurable: true })
            if (sorted.data) found.set(hash, [...(found.get(hash) ?? []), `${ip(host)}/${device}`])
          }
        }
      }
    }
  }
  for (const [hash, { path, places }] of wanted) {
    const at = found.get(hash) ?? []
    if (at.sort().join() !== [...places].sort().join()) wrong(`${path} is on ${at.join(' ')}; it belongs on ${places.join(' ')}`)
  }
  for (const [hash, at] of found) if (!wanted.has(hash)) wrong(`orphan ${hash} on ${at.join(' ')}`)
  say(`  ${wanted.size} objects with ${ring.table.length} ${policy === 'ec' ? 'fragments' : 'copies'} each`)
}

async function trials(): Promise<void> {
  for (const [policy, container] of Object.entries(CONTAINERS)) {
    const made = await call('PUT', `/${container}`, { 'x-storage-policy': policy })
    if (made.status !== 201) throw new Error(`could not make the container: ${made.status} ${made.body.toString()}`)
  }
  const faults = Object.entries(FAULTS).filter(([fault]) => !values.only || values.only.split(',').includes(fault))
  for (const [fault, act] of Array.from({ length: ROUNDS }, () => faults).flat()) {
    for (const key of Object.keys(counts) as (keyof typeof counts)[]) counts[key] = 0
    let over = false
    const clients = Array.from({ length: Number(values.clients) }, (_, i) => client(i, () => over))
    await pause(2000)
    await act()
    await pause(1000)
    over = true
    await Promise.all(clients)
    say(
      `${fault}: ${counts.put} PUT, ${counts.get} GET, ${counts.delete} DELETE acknowledged; ${counts.refused} refused or cut off; ${problems.length} wrong so far`,
    )
    await heal()
  }
  for (const policy of POLICIES) await lastLook(policy)
}

async function end(): Promise<void> {
  for (const who of children.keys()) await kill(who)
  await run(['umount', '-l', deviceDir(SMALL, 'd')]).catch(() => {})
  if (problems.length === 0) await rm(dir, { recursive: true, force: true })
  else say(`what was stored is in ${dir}`)
}

try {
  await network()
  await rings()
  for (let host = 1; host <= HOSTS; host++) await startHost(host)
  await start('proxy', {
    proxy: { ip: '127.0.0.1', port: 8080, users: [{ account: 'test', user: 'tester', key: 'testing', groups: ['.admin'] }] },
  })
  const login = await new Promise<string>((resolve, reject) => {
    request(
      { host: '127.0.0.1', port: 8080, path: '/auth/v1.0', headers: { 'x-auth-user': 'test:tester', 'x-auth-key': 'testing' } },
      res => resolve(String(res.headers['x-auth-token'])),
    )
      .on('error', reject)
      .end()
  })
  token = login
  await trials()
} catch (error) {
  wrong(String(error instanceof Error ? error.stack : error))
  for (const who of children.keys()) {
    const log = await readFile(join(dir, `${who}.log`), 'utf8').catch(() => '')
    if (log) say(`--- ${who}\n${log.slice(-1500)}`)
  }
} finally {
  await end()
}
say(problems.length ? `FAILED: ${problems.length} wrong` : 'passed: nothing acknowledged was lost')
process.exit(problems.length ? 1 : 0)
