/**
 * One Nubo a machine, where machines are real. Bridges, taps and namespaces are named as operators know them (`brq…`, `qdhcp-…`), and an agent
 * takes away what none of its networks wants: two of them would take apart each other's. So a machine belongs to one agent's folder: while
 * that agent runs, and after it as long as guests of it are there, since those need their networks.
 *
 * "Machine" is a network namespace with its own /run/nubo; both go with a reboot, and so does the claim.
 */
import { closeSync, ftruncateSync, mkdirSync, openSync, readdirSync, readFileSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { flock } from '#host/flock.ts'

/** The machine is ours until this is let go of, or our process ends. */
export interface MachineClaim {
  /** Safe to call twice. */
  release(): void
}

const FOLDER = '/run/nubo'

/**
 * Takes this machine for the agent whose files are in `folder`.
 * @throws Error that says whose it is when it is another's.
 */
export async function machineClaim(folder: string, run = FOLDER): Promise<MachineClaim> {
  mkdirSync(run, { recursive: true, mode: 0o755 })
  const file = join(run, 'owner')
  const fd = openSync(file, 'a+', 0o600)
  try {
    const ours = await flock(fd, ['-n'])
    const owner = readFileSync(file, 'utf8').trim()
    const other = owner !== '' && owner !== folder
    if (!ours) throw new Error(taken(owner, `it runs (stop it: nubo down)`))
    const guests = other ? guestsOf(owner) : 0
    if (guests > 0) throw new Error(taken(owner, `${guests} of its guests are here (remove it: nubo destroy)`))
    ftruncateSync(fd)
    writeSync(fd, `${folder}\n`)
    let held = true
    return {
      release() {
        if (held) closeSync(fd)
        held = false
      },
    }
  } catch (error) {
    closeSync(fd)
    throw error
  }
}

/** The agent's folder that this machine belongs to, or did last; undefined when it is nobody's. */
export function machineOwner(run = FOLDER): string | undefined {
  return textOf(join(run, 'owner'))?.trim() || undefined
}

/** Makes the machine nobody's again, where it is of that folder: for one who has taken everything of it away. */
export function machineForget(folder: string, run = FOLDER): void {
  if (machineOwner(run) === folder) rmSync(join(run, 'owner'))
}

function textOf(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
}

const taken = (owner: string, why: string): string =>
  `the guests and networks of this machine belong to another Nubo, whose agent's files are in ${owner}: ${why}. ` +
  'A second cloud needs a machine of its own, or pretends its hosts: --simulate'

/** Guests that the agent of that folder knows; 0 where the folder has gone. */
function guestsOf(folder: string): number {
  try {
    return readdirSync(join(folder, 'nova', 'guests')).filter(name => !name.startsWith('.')).length
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return 0
    throw error
  }
}
