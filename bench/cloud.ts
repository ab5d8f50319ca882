/** A cloud of its own for a figure: simulated, on a free loopback port, in a temporary folder; gone afterwards. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parse } from 'yaml'
import { run } from '#host/run.ts'

const NUBO = fileURLToPath(new URL('../nubo', import.meta.url))

export interface BenchCloud {
  url: string
  data: string
  /** Process ids of everything that belongs to it. */
  pids(): number[]
  /** A token of the administrator (default) or of the demo user, scoped to the user's project. */
  token(cloud?: 'nubo' | 'demo'): Promise<string>
  projectId: string
  down(): Promise<void>
  /** Runs the nubo command on this cloud's folder. */
  nubo(...args: string[]): Promise<string>
}

/** A port that nobody listens on now. */
export async function freePort(): Promise<number> {
  const probe = createServer()
  await new Promise<void>(resolve => probe.listen(0, '127.0.0.1', resolve))
  const { port } = probe.address() as { port: number }
  await new Promise<void>(resolve => probe.close(() => resolve()))
  return port
}

/** Starts one. `args` go to `nubo up` beside data, address and --detach. */
export async function benchCloud(...args: string[]): Promise<BenchCloud> {
  const data = mkdtempSync(join(tmpdir(), 'nubo-bench-'))
  const port = await freePort()
  const nubo = async (...words: string[]): Promise<string> =>
    (await run([NUBO, ...words, '--data', data], { timeoutMs: 300_000 })).stdout
  await nubo('up', '--detach', '--listen', `127.0.0.1:${port}`, ...args)
  const url = `http://127.0.0.1:${port}`
  const cloud: BenchCloud = {
    url,
    data,
    projectId: '',
    pids: () => tree(Number((JSON.parse(readFileSync(join(data, 'state.json'), 'utf8')) as { pid: number }).pid), data),
    async token(name = 'nubo') {
      const file = parse(readFileSync(join(data, 'clouds.yaml'), 'utf8')) as {
        clouds: Record<string, { auth: Record<string, string> }>
      }
      const { auth } = file.clouds[name]!
      const response = await fetch(`${url}/identity/v3/auth/tokens`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({
          auth: {
            identity: {
              methods: ['password'],
              password: { user: { name: auth.username, domain: { id: 'default' }, password: auth.password } },
            },
            scope: { project: { name: auth.project_name, domain: { id: 'default' } } },
          },
        }),
      })
      if (response.status !== 201) throw new Error(`no token: ${response.status} ${await response.text()}`)
      cloud.projectId = ((await response.json()) as { token: { project: { id: string } } }).token.project.id
      return response.headers.get('x-subject-token')!
    },
    async down() {
      // A real one leaves networks on the machine when it stops.
      await (args.some(arg => arg.startsWith('--simulate')) ? nubo('down') : nubo('destroy', '--yes'))
      rmSync(data, { recursive: true, force: true })
    },
    nubo,
  }
  return cloud
}

/** A process, its descendants, and PostgreSQL on this folder with its own (it is nobody's child: it outlives whoever started it). */
function tree(root: number, data: string): number[] {
  const roots = [root]
  try {
    roots.push(Number(readFileSync(join(data, 'postgres', 'data', 'postmaster.pid'), 'utf8').split('\n')[0]))
  } catch {
    // Another PostgreSQL than our own: not ours to count.
  }
  const all = new Set<number>()
  const add = (pid: number): void => {
    all.add(pid)
    for (const child of childrenOf(pid)) add(child)
  }
  for (const pid of new Set(roots)) add(pid)
  return [...all]
}

function childrenOf(pid: number): number[] {
  try {
    return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number)
  } catch (error) {
    if (isGone(error)) return []
    throw error
  }
}

/** Clock ticks a second in /proc/PID/stat: fixed by the kernel's ABI on the processors that Nubo runs on. */
const HZ = 100

/**
 * CPU seconds that a cloud's processes have used so far, those that have ended included: the kernel adds them to whoever waited for them. Ask
 * for the processes anew each time, as they come and go.
 */
export function cpuOf(cloud: Pick<BenchCloud, 'pids'>): number {
  return sumOf(cloud.pids(), pid => {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return fields.slice(11, 15).reduce((sum, ticks) => sum + Number(ticks) / HZ, 0)
  })
}

/** Proportional set size of a cloud's processes in MiB: shared pages are counted once among those that share them. */
export function pssOf(cloud: Pick<BenchCloud, 'pids'>): number {
  return sumOf(cloud.pids(), pid => {
    const line = /^Pss:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))
    return Number(line?.[1] ?? 0) / 1024
  })
}

/** A sum over processes. One that has ended since the list was made counts nothing. */
function sumOf(pids: readonly number[], of: (pid: number) => number): number {
  let sum = 0
  for (const pid of pids) {
    try {
      sum += of(pid)
    } catch (error) {
      if (!isGone(error)) throw error
    }
  }
  return sum
}

const isGone = (error: unknown): boolean => ['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')
