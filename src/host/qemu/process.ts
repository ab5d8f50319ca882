// Guests as processes that outlive us. A guest's process is started by a fixed little shell script, whose arguments are data, because four
// things must happen in the child before QEMU runs, in this order:
//
//   1. take the guest's lock (flock on a descriptor that QEMU inherits): while it is held, a process of this guest exists. So two can never
//      run, even when the agent died between starting one and noting it.
//   2. enter the guest's control groups
//   3. write the pid file, with the process's start time (so a pid that was used again is not mistaken for ours); one cut short is none
//   4. become the guest's own user, without capabilities or a way to get new privileges, and run QEMU
//
// The pid stays the same through exec, so the child that we start is QEMU. It is in a session of its own and its output goes to a file.
import { spawn } from 'node:child_process'
import { type FileHandle, open, readdir, readFile } from 'node:fs/promises'
import { placed, RunError, run } from '../run.ts'

const SCRIPT = `
set -eu
umask 077
ulimit -c 0
lock=$1 pidfile=$2
shift 2
exec 9>>"$lock"
flock -n 9 || { echo "another process of this guest holds $lock" >&2; exit 75; }
while [ "$1" != -- ]; do
  echo 0 > "$1"
  shift
done
shift
IFS= read -r stat < "/proc/$$/stat"
IFS= read -r boot < /proc/sys/kernel/random/boot_id
printf '%s\\n%s\\n' "$boot" "$stat" > "$pidfile"
exec "$@"
`

/** A process, told from a later one with the same pid by its start time (clock ticks since boot) and the boot. */
export interface Pid {
  pid: number
  startTime: string
  bootId: string
}

/** /proc/PID/stat. The command name, in parentheses, may hold spaces and parentheses: fields count from the last one. Pure. */
export function parseStat(stat: string): { pid: number; state: string; startTime: string; ticks: number } {
  const close = stat.lastIndexOf(')')
  const rest = stat.slice(close + 2).split(' ')
  return {
    pid: Number(stat.slice(0, stat.indexOf(' '))),
    state: rest[0] ?? '?',
    startTime: rest[19] ?? '0',
    ticks: Number(rest[11] ?? 0) + Number(rest[12] ?? 0),
  }
}

/** The pid file's two lines: the boot's id and the process's stat. Undefined when it is cut short. Pure. */
export function parsePidFile(text: string): Pid | undefined {
  const [bootId, stat] = text.split('\n')
  if (!bootId || !stat?.includes(')')) return undefined
  const { pid, startTime } = parseStat(stat)
  return pid > 1 ? { pid, startTime, bootId } : undefined
}

const readMaybe = (path: string): Promise<string | undefined> =>
  readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT' || error.code === 'ESRCH') return undefined
    throw error
  })

export const bootId = async (): Promise<string> => (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim()

/** What the pid file says, whether or not that process lives. */
export async function pidRead(pidFile: string): Promise<Pid | undefined> {
  const text = await readMaybe(pidFile)
  return text === undefined ? undefined : parsePidFile(text)
}

/** Whether that very process still runs; one that has ended and waits for its parent does not. */
export async function pidAlive(pid: Pid): Promise<boolean> {
  if ((await bootId()) !== pid.bootId) return false
  const text = await readMaybe(`/proc/${pid.pid}/stat`)
  if (!text) return false
  const now = parseStat(text)
  return now.startTime === pid.startTime && now.state !== 'Z' && now.state !== 'X'
}

/** Whether some process holds the guest's lock: QEMU, or the script that is about to become it. */
export async function lockHeld(lock: string): Promise<boolean> {
  // -E: an exit code of our own for "held", apart from flock's other failures.
  const { code } = await run(['flock', '-n', '-E', '75', lock, 'true'], { codes: [0, 75] })
  return code === 75
}

export interface Launch {
  argv: string[]
  /** The guest's own user and group. */
  uid: number
  /** Supplementary groups, e.g. the one that may open /dev/kvm. */
  groups: number[]
  cwd: string
  lock: string
  pidFile: string
  /** QEMU's stdout and stderr; cut at each start. */
  log: string
  /** cgroup.procs files to enter. */
  enter: string[]
  netns?: string
}

/** The whole command of a launch. Pure. */
export function launchArgv(launch: Launch): string[] {
  const user = [
    'setpriv',
    `--reuid=${launch.uid}`,
    `--regid=${launch.uid}`,
    launch.groups.length > 0 ? `--groups=${launch.groups.join(',')}` : '--clear-groups',
    '--no-new-privs',
    '--inh-caps=-all',
    '--ambient-caps=-all',
    '--',
  ]
  const argv = ['sh', '-c', SCRIPT, 'nubo-guest', launch.lock, launch.pidFile, ...launch.enter, '--', ...user, ...launch.argv]
  return placed(argv, { netns: launch.netns })
}

export interface Launched {
  pid: number
  /** Resolves when the process ends while we are there to see it. */
  exited: Promise<{ code: number | null; signal: string | null }>
}

/**
 * Starts a guest's process, detached. Returns once it has been started; whether QEMU likes its arguments shows in `exited` and the log.
 * @throws RunError when the script's shell cannot be started.
 */
export async function launch(options: Launch): Promise<Launched> {
  const [file, ...args] = launchArgv(options)
  let log: FileHandle | undefined
  try {
    log = await open(options.log, 'w', 0o600)
    const child = spawn(file as string, args, {
      cwd: options.cwd,
      detached: true,
      stdio: ['ignore', log.fd, log.fd],
      env: { PATH: `${process.env.PATH ?? ''}:/usr/sbin:/sbin:/usr/bin:/bin`, LC_ALL: 'C.UTF-8' },
    })
    const exited = new Promise<{ code: number | null; signal: string | null }>(resolve => {
      child.once('exit', (code, signal) => resolve({ code, signal }))
    })
    await new Promise<void>((resolve, reject) => {
      child.once('spawn', resolve)
      child.once('error', cause =>
        reject(
          new RunError(
            `${file}: ${cause.message}`,
            { argv: options.argv, code: null, stdout: '', stderr: '', reason: 'start' },
            cause,
          ),
        ),
      )
    })
    child.unref()
    return { pid: child.pid as number, exited }
  } finally {
    await log?.close()
  }
}

/** QEMU's last words: the log without timestamps and its "terminating on signal" noise, at most 2000 characters. Pure. */
export function lastWords(log: string): string {
  const lines = log
    .split('\n')
    .map(line => line.replace(/^\d{4}-\d\d-\d\dT[\d:.]+Z /, '').replace(/^qemu-system-\w+: /, ''))
    .filter(line => line.trim() && !/^warning: /.test(line))
  return lines.join('; ').slice(-2000)
}

/** The processes of users `first` to `first + count - 1`, by the kernel's list: everything that runs as a guest, whatever pid files say. */
export async function pidsOfUsers(first: number, count: number): Promise<{ pid: number; uid: number }[]> {
  const found: { pid: number; uid: number }[] = []
  const within = (uid: number) => uid >= first && uid < first + count
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue
    const status = await readMaybe(`/proc/${name}/status`)
    if (!status || /^State:\s+[ZX]/m.test(status)) continue
    const ids = /^Uid:\s+(\d+)\s+(\d+)/m.exec(status)
    const uid = ids?.slice(1).map(Number).find(within)
    if (uid !== undefined) found.push({ pid: Number(name), uid })
  }
  return found
}

/** Sends a signal; false when the process has gone. */
export function signalPid(pid: number, signal: NodeJS.Signals): boolean {
  try {
    process.kill(pid, signal)
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false
    throw error
  }
}

/** Waits until a process has ended; the kernel tells nobody but its parent, so look every 10 ms. @throws when it has not in time. */
export async function pidGone(pid: Pid, timeoutMs: number): Promise<void> {
  const until = performance.now() + timeoutMs
  while (await pidAlive(pid)) {
    if (performance.now() > until) throw new Error(`process ${pid.pid} has not ended within ${timeoutMs} ms`)
    await new Promise(resolve => setTimeout(resolve, 10))
  }
}
