/**
 * Kills a process of Nubo's with SIGKILL at a random instant of creates and deletes of real servers, again and again. After each: Nubo comes
 * up (by itself, or by `nubo up` where nobody is left to start it), every create is ACTIVE or ERROR with its reason, every delete that was
 * accepted is done, nothing is under way any more, and `nubo audit` prints nothing. A guest from before the first kill runs through all of it.
 *
 *     conformance/kill-anything [--kills 6] [--seed N]
 *
 * The seed is printed: the same one gives the same kinds, targets and waits (but not the same instants of the processor).
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { RunError } from '#host/run.ts'
import { testGuestDisk } from '../src/services/nova/agent/testguest.ts'
import { type Answer, cloudAt } from './lib/cloud.ts'
import { links, processesWith } from './lib/leftovers.ts'
import { randomOf } from './lib/random.ts'

const { values } = parseArgs({
  options: { kills: { type: 'string', default: '6' }, seed: { type: 'string' } },
})
const KILLS = Number(values.kills)
const seed = Number(values.seed ?? Date.now() % 2 ** 32)
const random = randomOf(seed)
const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)]!

/** Servers at a time, beside the survivor. */
const MOST = 4
/** Seconds within which everything must have been finished or undone. */
const PATIENCE = 180

const cloud = cloudAt('nubo-kill-anything')
const { data, nubo, api } = cloud

interface Server {
  id: string
  name: string
  status: string
  'OS-EXT-STS:task_state': string | null
  fault?: { message: string }
}

// --- Nubo's processes ---------------------------------------------------------------------------------------------------------

type Target = 'agent' | 'controller' | 'database' | 'connection' | 'all'
const TARGETS: readonly Target[] = ['agent', 'agent', 'controller', 'controller', 'database', 'connection', 'all']

const read = (file: string): string => {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    if (['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code!)) return ''
    throw error
  }
}

/** Processes whose parent is this one. */
const children = (parent: number): number[] =>
  readdirSync('/proc')
    .filter(name => /^\d+$/.test(name))
    .filter(pid => Number(read(`/proc/${pid}/stat`).split(') ')[1]?.split(' ')[1]) === parent)
    .map(Number)

const commandOf = (pid: number): string => read(`/proc/${pid}/cmdline`).replaceAll('\0', ' ')

/** Process ids by what they are; those that do not run are left out. */
function processes(): Record<Exclude<Target, 'all'>, number[]> {
  const agent = Number((JSON.parse(read(join(data, 'state.json')) || '{}') as { pid?: number }).pid ?? 0)
  const controller = agent === 0 ? [] : children(agent).filter(pid => commandOf(pid).includes('controller-process'))
  const postmaster = Number(read(join(data, 'postgres/data/postmaster.pid')).split('\n')[0])
  const database = postmaster > 0 && existsSync(`/proc/${postmaster}`) ? [postmaster] : []
  return {
    agent: agent > 0 && existsSync(`/proc/${agent}`) ? [agent] : [],
    controller,
    database,
    // One session's process: PostgreSQL then ends all sessions and recovers.
    connection: database
      .flatMap(children)
      .filter(pid => /postgres: nubo|postgres: .*\[local\]/.test(commandOf(pid)))
      .slice(0, 1),
  }
}

function kill(target: Target): number[] {
  const found = processes()
  const pids = target === 'all' ? [...found.agent, ...found.controller, ...found.database] : found[target]
  return pids.filter(pid => {
    try {
      return process.kill(pid, 'SIGKILL')
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false
      throw error
    }
  })
}

// --- requests -----------------------------------------------------------------------------------------------------------------

/** An answer, or undefined when nobody answered: then nobody knows whether it was done. */
const tried = (method: string, path: string, body?: unknown): Promise<Answer | undefined> =>
  api(method, path, body).then(
    answer => (answer.status < 500 ? answer : undefined),
    () => undefined,
  )

/** An answer that is needed: asked again until somebody answers. */
async function asked(method: string, path: string, body?: unknown): Promise<Answer> {
  for (const end = Date.now() + PATIENCE * 1000; ; await delay(100)) {
    const answer = await tried(method, path, body)
    if (answer) return answer
    if (Date.now() > end) throw new Error(`${method} ${path}: nobody answered for ${PATIENCE} s`)
  }
}

const servers = async (): Promise<Server[]> => (await asked('GET', '/compute/v2.1/servers/detail')).body.servers as Server[]

let imageId = ''
let flavorId = ''
let networkId = ''
const create = (name: string): Promise<Answer | undefined> =>
  tried('POST', '/compute/v2.1/servers', {
    server: { name, imageRef: imageId, flavorRef: flavorId, networks: [{ uuid: networkId }] },
  })

/** Waits until nothing is under way. Rejects, saying what is, when that takes too long. */
async function settled(): Promise<Server[]> {
  for (const end = Date.now() + PATIENCE * 1000; ; await delay(200)) {
    const now = await servers()
    const busy = now.filter(server => server['OS-EXT-STS:task_state'] !== null || !['ACTIVE', 'ERROR'].includes(server.status))
    if (busy.length === 0) return now
    if (Date.now() > end) {
      const { stdout } = await nubo(['status'], [0, 1])
      throw new Error(`still under way after ${PATIENCE} s: ${JSON.stringify(busy)}\n${stdout}`)
    }
  }
}

// --- one kill -----------------------------------------------------------------------------------------------------------------

const problems: string[] = []
const wrong = (words: string): void => {
  problems.push(words)
  console.log(`    WRONG ${words}`)
}

async function round(n: number, longest: number): Promise<void> {
  const before = await servers()
  const others = before.filter(server => server.name !== 'survivor')
  // Both at once now and then; a create where there is nothing to delete.
  const remove = others.length >= MOST || (others.length > 0 && random() < 0.5) ? pick(others) : undefined
  const makes = others.length < MOST && (remove === undefined || random() < 0.5) ? (random() < 0.3 ? 2 : 1) : 0
  const names = Array.from({ length: makes }, (_, i) => `k${n}-${i}`)
  const target = pick(TARGETS)
  const wait = random() ** 1.5 * longest

  const posts = names.map(name => create(name))
  const deletion = remove && tried('DELETE', `/compute/v2.1/servers/${remove.id}`)
  await delay(wait)
  const killed = kill(target)
  const answers = await Promise.all(posts)
  const deleted = await deletion
  // Nobody is left to start the agent's process again: an operator, or systemd, does.
  if (target === 'agent' || target === 'all') await nubo(['up', '--detach'])
  const now = await settled()

  const said: string[] = []
  names.forEach((name, i) => {
    const found = now.filter(server => server.name === name)
    const answer = answers[i]
    if (found.length > 1) wrong(`${name} is there ${found.length} times`)
    if (answer?.status === 202 && found.length === 0) wrong(`${name} was accepted and is not there`)
    if (answer && answer.status !== 202) wrong(`${name}: ${answer.status} ${JSON.stringify(answer.body)}`)
    const [server] = found
    if (server?.status === 'ERROR' && !server.fault?.message) wrong(`${name} is ERROR and does not say why`)
    said.push(`${name} ${server ? `${server.status}${server.fault ? ` (${server.fault.message})` : ''}` : 'not begun'}`)
  })
  if (remove) {
    const left = now.some(server => server.id === remove.id)
    if (deleted?.status === 204 && left) wrong(`${remove.name} was to be deleted and is there`)
    if (deleted && ![204, 404].includes(deleted.status)) wrong(`DELETE ${remove.name}: ${deleted.status}`)
    said.push(`${remove.name} ${left ? 'not deleted' : 'deleted'}`)
  }
  const active = now.filter(server => server.status === 'ACTIVE')
  const running = processesWith('qemu-system-x86_64')
  for (const server of active)
    if (!running.some(words => words.includes(server.id))) wrong(`${server.name} is ACTIVE and has no process`)
  if (running.length !== active.length) wrong(`${running.length} guests run and ${active.length} servers are ACTIVE`)
  const { stdout } = await nubo(['audit'], [0, 1])
  if (stdout !== '') wrong(`nubo audit:\n${stdout}`)
  const what = killed.length === 0 ? 'was not there' : `killed (${killed.join(', ')})`
  console.log(`${String(n).padStart(3)}  ${target} ${what} after ${wait.toFixed(0)} ms: ${said.join('; ')}`)
  for (const server of now.filter(server => server.status === 'ERROR'))
    await asked('DELETE', `/compute/v2.1/servers/${server.id}`)
}

// --- the whole ----------------------------------------------------------------------------------------------------------------

async function prepare(): Promise<{ survivor: string; longest: number }> {
  await nubo(['up', '--detach'])
  const image = await api('POST', '/image/v2/images', { name: 'tiny', disk_format: 'raw', container_format: 'bare' })
  imageId = image.body.id as string
  await api('PUT', `/image/v2/images/${imageId}/file`, testGuestDisk())
  const flavor = await api('POST', '/compute/v2.1/flavors', { flavor: { name: 'tiny', ram: 64, vcpus: 1, disk: 1 } })
  flavorId = (flavor.body.flavor as { id: string }).id
  const networks = (await api('GET', '/networking/v2.0/networks?name=private')).body.networks as { id: string }[]
  networkId = networks[0]!.id
  await create('survivor')
  await settled()
  // How long a create takes undisturbed, with everything cached: kills are spread over that and a little more.
  const began = performance.now()
  await create('warm')
  const now = await settled()
  const longest = (performance.now() - began) * 1.2
  for (const { name, status, fault } of now) if (status !== 'ACTIVE') throw new Error(`${name} is ${status}: ${fault?.message}`)
  const survivor = now.find(server => server.name === 'survivor')!.id
  return { survivor, longest }
}

/** Process ids of a guest's qemu. */
const guestPids = (id: string): string[] =>
  readdirSync('/proc').filter(
    pid => /^\d+$/.test(pid) && /^qemu-system/.test(commandOf(Number(pid))) && commandOf(Number(pid)).includes(id),
  )

async function end(): Promise<void> {
  for (const server of await servers()) await asked('DELETE', `/compute/v2.1/servers/${server.id}`)
  for (const limit = Date.now() + PATIENCE * 1000; (await servers()).length > 0; await delay(200)) {
    if (Date.now() > limit) throw new Error(`not deleted within ${PATIENCE} s: ${JSON.stringify(await servers())}`)
  }
  const left = processesWith('qemu-system-x86_64')
  if (left.length > 0) wrong(`guests run on: ${left.join('\n')}`)
  const { stdout, code } = await nubo(['audit'], [0, 1])
  if (stdout !== '' || code !== 0) wrong(`nubo audit at the end:\n${stdout}`)
  const status = JSON.parse((await nubo(['status', '--json'], [0, 1])).stdout) as { operations?: unknown[]; troubles: string[] }
  if ((status.operations ?? []).length > 0) wrong(`operations go on: ${JSON.stringify(status.operations)}`)
  await nubo(['destroy', '--yes'])
  const over = await links()
  if (over.length > 0) wrong(`links are left: ${over.join(', ')}`)
}

console.log(`seed ${seed}, ${KILLS} kills`)
const began = performance.now()
try {
  const { survivor, longest } = await prepare()
  const [pid] = guestPids(survivor)
  console.log(`a create takes ${(longest / 1.2).toFixed(0)} ms undisturbed; the survivor is process ${pid}`)
  for (let n = 1; n <= KILLS; n++) await round(n, longest)
  if (guestPids(survivor)[0] !== pid) wrong(`the survivor is process ${guestPids(survivor)[0]} and was ${pid}`)
  await end()
} catch (error) {
  wrong((error as Error).message)
  if (error instanceof RunError) console.log(error.stdout.slice(-4000))
}
if (problems.length > 0 && existsSync(join(data, 'nubo.log'))) console.log(`the end of its log:\n${cloud.log(40)}`)
if (existsSync(data)) await nubo(['down']).catch((error: Error) => console.log(error.message))
cloud.remove()
console.log(
  `${problems.length === 0 ? 'all finished or undone' : `${problems.length} wrong`}; seed ${seed}, ${KILLS} kills, ${((performance.now() - began) / 1000).toFixed(0)} s`,
)
process.exit(problems.length === 0 ? 0 : 1)
