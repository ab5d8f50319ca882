// The one way to start a program on this machine.
//
// A command is an argument list, never a shell string. Every command has a deadline, is killed with its children when the deadline
// or the caller's signal says so, and its stderr reaches the message of the error. A command may run inside a network namespace and
// as another user: the process itself never changes its own namespace or user, a child does (nsenter, which util-linux brings to
// every Linux), so that one agent can serve many namespaces at once.
import { type ChildProcess, spawn } from 'node:child_process'
import { channel } from 'node:diagnostics_channel'
import { once } from 'node:events'
import { createInterface } from 'node:readline'

/** Where and as whom a command runs. */
export interface RunPlace {
  /** Network namespace: a name under /run/netns, or a path such as /proc/123/ns/net. */
  netns?: string
  /** Numeric user and group (default: the same number) to become; supplementary groups are dropped. Needs root. */
  uid?: number
  gid?: number
  cwd?: string
  /** Variables added to (or, when undefined, taken from) our own environment. */
  env?: Record<string, string | undefined>
}

export interface RunOptions extends RunPlace {
  /** Written to stdin, which is then closed. Without it stdin is /dev/null. */
  input?: string | Uint8Array
  /** Deadline in milliseconds, 30 s by default. The whole process group is killed when it passes. */
  timeoutMs?: number
  signal?: AbortSignal
  /** Exit codes that are an answer and not a failure; [0] by default. */
  codes?: readonly number[]
  /** Most bytes of stdout (and of stderr) that are kept; more is an error. 64 MiB by default. */
  maxBytes?: number
}

export interface RunResult {
  stdout: string
  stderr: string
  code: number
}

/** What a finished command leaves for the log. */
export interface RunRecord extends RunPlace {
  argv: readonly string[]
  code: number | null
  ms: number
  stdout: string
  stderr: string
  error?: string
}

/** A command that could not be started, ended badly or was cut off. The message carries the command line and the tool's own words. */
export class RunError extends Error {
  readonly argv: readonly string[]
  /** Exit code; null when it was killed or never started. */
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
  /** Why, where the program itself did not say: it is missing, ran out of time, was cancelled. */
  readonly reason: 'exit' | 'missing' | 'start' | 'timeout' | 'aborted' | 'output' | 'killed'

  constructor(message: string, facts: Pick<RunError, 'argv' | 'code' | 'stdout' | 'stderr' | 'reason'>, cause?: unknown) {
    super(message, { cause })
    this.name = 'RunError'
    this.argv = facts.argv
    this.code = facts.code
    this.reason = facts.reason
    this.stdout = facts.stdout
    this.stderr = facts.stderr
    // The message has their gist: whoever prints the error should not print them whole.
    for (const name of ['stdout', 'stderr']) Object.defineProperty(this, name, { enumerable: false })
  }
}

const finished = channel('nubo.run')

/** Sends each finished command with its output (each cut to 4 KiB) to the log at level debug. Returns what stops it. */
export function logRuns(log: { debug(fields: object, message: string): void }): () => void {
  const cut = (text: string) => (text.length > 4096 ? `${text.slice(0, 4096)}… (${text.length} characters)` : text)
  const heard = (record: unknown) => {
    const { argv, stdout, stderr, ...rest } = record as RunRecord
    log.debug({ argv, ...rest, stdout: cut(stdout), stderr: cut(stderr) }, `ran ${argv[0]}`)
  }
  finished.subscribe(heard)
  return () => void finished.unsubscribe(heard)
}

/** Quotes an argument list for people to read (and to paste); never given to a shell by us. */
export function showArgv(argv: readonly string[]): string {
  return argv.map(word => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`)).join(' ')
}

/** The argument list that reaches `place`: nsenter in front where a namespace or, inside one, another user is wanted. */
export function placed(argv: readonly string[], { netns, uid, gid }: RunPlace): string[] {
  if (netns === undefined) return [...argv]
  const path = netns.startsWith('/') ? netns : `/run/netns/${netns}`
  const user = uid === undefined ? [] : [`--setuid=${uid}`, `--setgid=${gid ?? uid}`]
  return ['nsenter', `--net=${path}`, ...user, '--', ...argv]
}

/** A tool's words, short enough for a message: long lines and long texts lose their middle. */
function saying(text: string): string {
  const cut = (part: string, most: number) =>
    part.length > most ? `${part.slice(0, most / 2)} … ${part.slice(-most / 2)}` : part
  return cut(
    text
      .split('\n')
      .map(line => cut(line, 400))
      .join('\n'),
    4000,
  )
}

function spawnPlaced(argv: readonly string[], place: RunPlace, stdin: 'pipe' | 'ignore'): ChildProcess {
  const [file, ...args] = placed(argv, place)
  if (file === undefined) throw new TypeError('run: empty argument list')
  return spawn(file, args, {
    stdio: [stdin, 'pipe', 'pipe'],
    cwd: place.cwd,
    // One message language, so that texts in errors and parsers do not depend on the operator's locale.
    env: {
      ...process.env,
      PATH: `${process.env.PATH ?? ''}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin`,
      LC_ALL: 'C.UTF-8',
      ...place.env,
    },
    ...(place.netns === undefined && place.uid !== undefined && { uid: place.uid, gid: place.gid ?? place.uid }),
    // A group of its own: a deadline ends the children too, and a ^C on our terminal does not.
    detached: true,
  })
}

function killGroup(child: ChildProcess, signal: NodeJS.Signals): void {
  if (child.pid === undefined) return
  try {
    process.kill(-child.pid, signal)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

/**
 * Runs a command to its end and gives what it printed.
 * @throws RunError when it is missing, exits with a code outside `codes`, passes its deadline, prints too much or is aborted.
 */
export function run(argv: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const { input, timeoutMs = 30_000, signal, codes = [0], maxBytes = 64 << 20, ...place } = options
  const began = performance.now()
  return new Promise((resolve, reject) => {
    const out: Buffer[] = []
    const err: Buffer[] = []
    const size = { out: 0, err: 0 }
    let cutOff: { reason: RunError['reason']; words: string } | undefined

    const done = (code: number | null, failed?: { reason: RunError['reason']; words: string; cause?: unknown }) => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', onAbort)
      const stdout = Buffer.concat(out).toString()
      const stderr = Buffer.concat(err).toString()
      const where = place.netns === undefined ? '' : ` in namespace ${place.netns}`
      const said = saying(stderr.trim() || stdout.trim())
      const error =
        failed &&
        new RunError(
          `${showArgv(argv)}${where}: ${failed.words}${said && `: ${said}`}`,
          { argv, code, stdout, stderr, reason: failed.reason },
          failed.cause,
        )
      if (finished.hasSubscribers) {
        const ms = Math.round(performance.now() - began)
        finished.publish({
          argv,
          netns: place.netns,
          uid: place.uid,
          code,
          ms,
          stdout,
          stderr,
          error: failed?.words,
        } satisfies RunRecord)
      }
      if (error) reject(error)
      else resolve({ stdout, stderr, code: code as number })
    }
    const cut = (reason: RunError['reason'], words: string) => {
      cutOff ??= { reason, words }
      killGroup(child, 'SIGKILL')
    }
    const onAbort = () => cut('aborted', 'cancelled')

    let timer: NodeJS.Timeout | undefined
    if (signal?.aborted) return done(null, { reason: 'aborted', words: 'cancelled before it started' })
    const child = spawnPlaced(argv, place, input === undefined ? 'ignore' : 'pipe')
    timer = setTimeout(() => cut('timeout', `no end after ${timeoutMs} ms`), timeoutMs)
    signal?.addEventListener('abort', onAbort)

    const keep = (chunks: Buffer[], which: 'out' | 'err') => (chunk: Buffer) => {
      size[which] += chunk.length
      if (size[which] > maxBytes) cut('output', `more than ${maxBytes} bytes of output`)
      else chunks.push(chunk)
    }
    child.stdout?.on('data', keep(out, 'out'))
    child.stderr?.on('data', keep(err, 'err'))
    // A program may end without reading its input (EPIPE): its exit code says whether that was wrong.
    child.stdin?.on('error', () => undefined)
    child.stdin?.end(input)
    child.on('error', (cause: NodeJS.ErrnoException) => {
      const missing = cause.code === 'ENOENT' && !place.cwd
      done(null, {
        reason: missing ? 'missing' : 'start',
        words: missing ? 'not installed on this host' : `cannot start: ${cause.message}`,
        cause,
      })
    })
    child.on('close', (code, killedBy) => {
      if (child.pid === undefined) return
      if (cutOff) return done(code, cutOff)
      if (code === null) return done(null, { reason: 'killed', words: `killed by ${killedBy}` })
      done(code, codes.includes(code) ? undefined : { reason: 'exit', words: `exit code ${code}` })
    })
  })
}

/** A program that is kept running and read line by line. */
export interface Followed {
  readonly pid: number
  /** Resolves when the program has ended, whoever ended it; `stopped` says that `stop` did. */
  readonly ended: Promise<{ code: number | null; signal: string | null; stderr: string; stopped: boolean }>
  /** SIGTERM, then SIGKILL after two seconds; resolves when it is gone. */
  stop(): Promise<void>
}

/**
 * Starts a program that does not end by itself (a monitor) and hands over each line of its stdout. It dies with `stop`, or with `signal`.
 * @throws RunError when it cannot be started.
 */
export async function follow(
  argv: readonly string[],
  onLine: (line: string) => void,
  { signal, ...place }: RunPlace & { signal?: AbortSignal } = {},
): Promise<Followed> {
  const child = spawnPlaced(argv, place, 'ignore')
  const err: string[] = []
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    err.push(text)
    if (err.length > 64) err.shift()
  })
  if (child.stdout) createInterface({ input: child.stdout, crlfDelay: Number.POSITIVE_INFINITY }).on('line', onLine)
  let stopped = false
  const ended = new Promise<{ code: number | null; signal: string | null; stderr: string; stopped: boolean }>(resolve =>
    child.on('close', (code, by) => resolve({ code, signal: by, stderr: err.join(''), stopped })),
  )
  try {
    await once(child, 'spawn')
  } catch (cause) {
    const missing = (cause as NodeJS.ErrnoException).code === 'ENOENT'
    const facts = { argv, code: null, stdout: '', stderr: '', reason: missing ? 'missing' : 'start' } as const
    throw new RunError(`${showArgv(argv)}: ${missing ? 'not installed on this host' : (cause as Error).message}`, facts, cause)
  }
  const stop = async () => {
    stopped = true
    killGroup(child, 'SIGTERM')
    const hard = setTimeout(() => killGroup(child, 'SIGKILL'), 2000)
    await ended
    clearTimeout(hard)
  }
  signal?.addEventListener('abort', () => void stop(), { once: true })
  if (signal?.aborted) await stop()
  return { pid: child.pid as number, ended, stop }
}
