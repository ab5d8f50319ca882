/**
 * Machine A has a cloud and is a host of it; machine B joins by a token. A server is put on B: its guest gets its address over the tunnel from
 * A, and its user data over the link. Then B's agent is killed, the guest lives, and `nubo destroy` takes all of it away, there and on A.
 *
 * A machine is a network namespace with a /run of its own; a wire joins the two.
 */
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { request } from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { setTimeout as pause } from 'node:timers/promises'
import { parse } from 'yaml'
import { run } from '#host/run.ts'

const began = performance.now()
const say = (line: string): void => console.log(`${((performance.now() - began) / 1000).toFixed(0).padStart(4)} s  ${line}`)
const ROOT = join(import.meta.dirname, '..')
const URL_A = 'https://10.99.78.1:5000'
/** An emulated guest on a busy machine. */
const BOOT_MS = 300_000
/** Every outcome here is awaited by looking: the API and the guest tell nobody. */
const LOOK_MS = 500

interface Machine {
  name: string
  holder: ChildProcess
  data: string
}

const folder = mkdtempSync(join(tmpdir(), 'nubo-two-'))
// The unprivileged user of the controllers must get through.
await run(['chmod', '755', folder])

/** A machine with one network interface, `eth0`. */
async function machine(name: string, address: string): Promise<Machine> {
  const script = 'mount -t tmpfs tmpfs /run && mkdir -p /run/netns && ip link set lo up && echo ready && exec sleep infinity'
  const holder = spawn('unshare', ['--net', '--mount', 'sh', '-c', script], { stdio: ['ignore', 'pipe', 'inherit'] })
  await new Promise(ready => holder.stdout!.once('data', ready))
  const data = join(folder, name)
  mkdirSync(data)
  const made: Machine = { name, holder, data }
  await run(['ip', 'link', 'set', `wire-${name}`, 'name', 'eth0', 'netns', String(holder.pid)])
  await on(made, ['ip', 'addr', 'add', `${address}/24`, 'dev', 'eth0'])
  await on(made, ['ip', 'link', 'set', 'eth0', 'up'])
  return made
}

const inside = ({ holder }: Machine, argv: string[]): string[] => [
  'nsenter',
  '--net',
  '--mount',
  `--target=${holder.pid}`,
  ...argv,
]
const on = async (machine: Machine, argv: string[], codes = [0]): Promise<string> =>
  (await run(inside(machine, argv), { codes, timeoutMs: 300_000 })).stdout
const nubo = (machine: Machine, command: string, ...args: string[]): Promise<string> =>
  on(machine, [process.execPath, join(ROOT, 'src/main.ts'), command, '--data', machine.data, ...args])

/** What is on a machine that Nubo could have left. */
async function left(machine: Machine): Promise<string[]> {
  const links = (await on(machine, ['ip', '-br', 'link'])).split('\n').map(line => line.split(/[\s@]/)[0]!)
  const things = links.filter(link => link && link !== 'lo' && link !== 'eth0').map(link => `link ${link}`)
  for (const line of (await on(machine, ['ip', 'netns'])).split('\n').filter(Boolean)) things.push(`netns ${line}`)
  for (const line of (await on(machine, ['nft', 'list', 'tables'])).split('\n').filter(Boolean)) things.push(line)
  for (const name of (await on(machine, ['ls', '/run'])).split('\n')) if (name.startsWith('nubo')) things.push(`/run/${name}`)
  if (existsSync(machine.data)) for (const name of readdirSync(machine.data)) things.push(join(machine.data, name))
  return things
}

/** Processes of this test's namespace by their command line. */
function processes(words: string): number[] {
  return readdirSync('/proc')
    .filter(name => /^\d+$/.test(name))
    .filter(pid => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(words)
      } catch {
        return false // It has just ended.
      }
    })
    .map(Number)
}

// --- a client on machine A's side of the wire, that trusts the cloud's authority alone ------------------------------------------------

interface Answer {
  status: number
  token?: string
  json: unknown
}

/** One request from within this process's own namespace would not get there: a child in A's asks. */
async function ask(ca: string, method: string, path: string, token?: string, body?: unknown): Promise<Answer> {
  const headers = {
    ...(token && { 'x-auth-token': token }),
    'content-type': 'application/json',
    'openstack-api-version': 'compute 2.96',
  }
  return new Promise((resolve, reject) => {
    const sent = request(URL_A + path, { method, headers, ca, timeout: 60_000 }, response => {
      text(response).then(answer => {
        const json: unknown = answer.startsWith('{') ? JSON.parse(answer) : undefined
        resolve({ status: response.statusCode!, token: response.headers['x-subject-token'] as string | undefined, json })
      }, reject)
    })
    sent.once('error', reject)
    sent.end(body === undefined ? undefined : JSON.stringify(body))
  })
}

type Api = <T>(method: string, path: string, body?: unknown) => Promise<T>

async function login(ca: string, clouds: string): Promise<Api> {
  const { auth } = (parse(readFileSync(clouds, 'utf8')) as { clouds: { nubo: { auth: Record<string, string> } } }).clouds.nubo
  const domain = { name: 'Default' }
  const user = { name: auth.username, password: auth.password, domain }
  const scope = { project: { name: auth.project_name, domain } }
  const identity = { methods: ['password'], password: { user } }
  const { token } = await ask(ca, 'POST', '/identity/v3/auth/tokens', undefined, { auth: { identity, scope } })
  assert(token, 'signed in')
  return async <T>(method: string, path: string, body?: unknown) => {
    const { status, json } = await ask(ca, method, path, token, body)
    if (status >= 300) throw new Error(`${method} ${path}: ${status} ${JSON.stringify(json)}`)
    return json as T
  }
}

/** Looks until there is something. Rejects after `ms` with what was seen last. */
async function until<T>(
  what: string,
  ms: number,
  look: () => Promise<T | undefined>,
  seen: () => unknown = () => '',
): Promise<T> {
  for (const end = performance.now() + ms; performance.now() < end; await pause(LOOK_MS)) {
    const found = await look()
    if (found !== undefined) return found
  }
  throw new Error(`${what}: not within ${ms / 1000} s. ${String(seen())}`)
}

async function idOf(api: Api, path: string, list: string, name: string): Promise<string> {
  const found = await api<Record<string, { id: string; name: string }[]>>('GET', path)
  const one = found[list]!.find(item => item.name === name)
  assert(one, `${list}: ${name}`)
  return one.id
}

interface Server {
  id: string
  status: string
  fault?: unknown
  'OS-EXT-SRV-ATTR:host': string
}

/** A server on host `b`; resolves when its guest has come up and asked for its user data. */
async function serverOn(api: Api, host: string): Promise<Server> {
  const { server } = await api<{ server: Server }>('POST', '/compute/v2.1/servers', {
    server: {
      name: 'far',
      host,
      imageRef: await idOf(api, '/image/v2/images', 'images', 'guest'),
      flavorRef: await idOf(api, '/compute/v2.1/flavors', 'flavors', 'm1.tiny'),
      networks: [{ uuid: await idOf(api, '/networking/v2.0/networks', 'networks', 'private') }],
      user_data: Buffer.from('#!/bin/sh\necho user-data-has-run >/dev/console\n').toString('base64'),
    },
  })
  const path = `/compute/v2.1/servers/${server.id}`
  let last: Server | undefined
  const active = await until(
    'the server is ACTIVE',
    BOOT_MS,
    async () => {
      last = (await api<{ server: Server }>('GET', path)).server
      assert.notEqual(last.status, 'ERROR', JSON.stringify(last.fault))
      return last.status === 'ACTIVE' ? last : undefined
    },
    () => JSON.stringify(last),
  )
  say(`the server is ACTIVE on ${active['OS-EXT-SRV-ATTR:host']}`)
  let output = ''
  await until(
    'its user data has run',
    BOOT_MS,
    async () => {
      const body = { 'os-getConsoleOutput': {} }
      output = (await api<{ output: string }>('POST', `${path}/action`, body)).output
      return output.includes('user-data-has-run') || undefined
    },
    () => output.slice(-2000),
  )
  return active
}

// --- what happens -------------------------------------------------------------------------------------------------------------

await run(['ip', 'link', 'add', 'wire-a', 'type', 'veth', 'peer', 'name', 'wire-b'])
const a = await machine('a', '10.99.78.1')
const b = await machine('b', '10.99.78.2')
try {
  await nubo(a, 'up', '--detach', '--listen', '10.99.78.1:5000')
  say('A: a cloud that listens on the network')
  const token = (await nubo(a, 'token', '--host', 'machine-b')).trim()
  await nubo(b, 'join', URL_A, '--token', token, '--name', 'machine-b', '--detach')
  say('B: joined')
  await assert.rejects(nubo(b, 'join', 'https://10.99.78.9:5000', '--token', token), /is host machine-b of the cloud/)

  // Our own process talks to the cloud over a wire of its own.
  await run(['ip', 'link', 'add', 'wire-c', 'type', 'veth', 'peer', 'name', 'eth1', 'netns', String(a.holder.pid)])
  await run(['ip', 'addr', 'add', '10.99.79.2/24', 'dev', 'wire-c'])
  await run(['ip', 'link', 'set', 'wire-c', 'up'])
  await on(a, ['ip', 'addr', 'add', '10.99.79.1/24', 'dev', 'eth1'])
  await on(a, ['ip', 'link', 'set', 'eth1', 'up'])
  await run(['ip', 'route', 'add', '10.99.78.1/32', 'via', '10.99.79.1'])
  const api = await login(readFileSync(join(a.data, 'ca.pem'), 'utf8'), join(a.data, 'clouds.yaml'))

  const server = await serverOn(api, 'machine-b')
  assert.equal(server['OS-EXT-SRV-ATTR:host'], 'machine-b')
  say('its guest on B has its address from A, and its user data has run')
  assert.equal(await nubo(a, 'audit'), '', 'nothing differs')

  const guests = processes(`guest=${server.id}`).length > 0 ? processes(`guest=${server.id}`) : processes(server.id)
  assert(guests.length > 0, 'the guest is a process')
  const { pid } = JSON.parse(readFileSync(join(b.data, 'state.json'), 'utf8')) as { pid: number }
  process.kill(pid, 'SIGKILL')
  await until('B is away', 60_000, async () => ((await nubo(a, 'audit', '--json')).includes('"machine-b"') ? true : undefined))
  assert(
    guests.every(one => existsSync(`/proc/${one}`)),
    'a guest outlives its agent',
  )
  say('B: its agent was killed; the guest lives')

  const removed = await nubo(b, 'destroy', '--yes')
  assert.match(removed, new RegExp(`guest +${server.id}`))
  assert.deepEqual(await left(b), [])
  assert.deepEqual(processes(server.id), [])
  say('B: destroyed; nothing is left')

  await nubo(a, 'destroy', '--yes')
  assert.deepEqual(
    (await left(a)).filter(thing => thing !== 'link eth1'),
    [],
  )
  await nubo(a, 'destroy', '--yes')
  say('A: destroyed; nothing is left')
} catch (error) {
  for (const { name, data } of [a, b]) {
    const log = join(data, 'nubo.log')
    const lines = existsSync(log) ? readFileSync(log, 'utf8').trim().split('\n') : []
    const told = lines.filter(line => !line.includes('"message":"answered"')).slice(-20)
    console.error(`--- the end of ${name}'s log\n${told.join('\n')}`)
  }
  throw error
} finally {
  rmSync(folder, { recursive: true, force: true })
}
// What is left inside ends with us.
process.exit(0)
