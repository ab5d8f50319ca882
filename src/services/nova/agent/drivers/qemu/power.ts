// Bringing a guest to the power state that its record wants, from whatever state it is found in.
//
// A process of QEMU's is in one of its run states: prelaunch (started, nothing ran yet), running, paused, shutdown (the guest powered itself
// off; the process stays because of -no-shutdown), inmigrate (waits for a saved state), io-error and a few more that mean "stopped by
// trouble". No process: off, or suspended when the record says that its memory is saved.

import { type FSWatcher, watch } from 'node:fs'
import { copyFile, open, stat, truncate } from 'node:fs/promises'
import { pidGone } from '#host/qemu/process.ts'
import { type Qmp, QmpClosed, type QmpEvent } from '#host/qemu/qmp.ts'
import { conflict, reason } from '#kit/fault.ts'
import { interrupt, queued } from '../../queue.ts'
import { syncDevices } from './hotplug.ts'
import { type Host, type Live, note } from './live.ts'
import { bringMemory, dropSaved, endMigration, loadGuest, suspendGuest } from './saved.ts'
import { thaw } from './snapshot.ts'
import {
  clearLeftovers,
  connectGuest,
  deathWords,
  endProcess,
  findProcess,
  launchGuest,
  makeFiles,
  removeGuest,
} from './start.ts'

/** A guest whose process ends by accident is started again, unless that happened within this time of its last start (milliseconds). */
const RESTART_AFTER_MS = 60_000
const POWERDOWN_RETRY_MS = 10_000

const runState = async (qmp: Qmp): Promise<string> => (await qmp.execute<{ status: string }>('query-status')).status

/** Connects to the guest's process if it has one. Undefined when it has none. */
export async function attach(host: Host, live: Live): Promise<Qmp | undefined> {
  if (live.qmp?.open) return live.qmp
  if (!(await findProcess(host, live))) return undefined
  const qmp = await connectGuest(host, live)
  await endMigration(qmp)
  return adopt(host, live, qmp)
}

/** Takes a connection: from now on what happens to the guest is heard. */
export function adopt(host: Host, live: Live, qmp: Qmp): Qmp {
  live.qmp = qmp
  qmp.on(event => heard(host, live, event))
  void qmp.closed.then(() => {
    if (live.qmp === qmp && !live.closed) void background(host, live, 'its process ended', signal => lost(host, live, signal))
  })
  live.unwatch?.()
  live.unwatch = boundConsole(host, live)
  return qmp
}

/** Work that nobody waits for: what fails becomes the guest's reason. */
export async function background(
  host: Host,
  live: Live,
  what: string,
  fn: (signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const attempt = async (signal: AbortSignal) => {
    try {
      await fn(signal)
    } catch (error) {
      // A connection that ended is news of its own, and looked into by `lost`.
      if (live.closed || live.gone || signal.aborted || error instanceof QmpClosed) return
      host.log.warn({ guest: live.id, error: reason(error) }, `guest: ${what}, and this could not be mended`)
      await note(host, live, { reason: reason(error), power: live.qmp?.open ? live.record.power : 'crashed' })
    }
  }
  await queued(live, undefined, attempt).catch(error => {
    // Interrupted while it waited: whoever interrupts says what becomes of the guest.
    if (!live.closed && !live.gone) host.log.debug({ guest: live.id, error: reason(error) }, `guest: ${what}`)
  })
}

function heard(host: Host, live: Live, event: QmpEvent): void {
  if (event.event === 'SHUTDOWN' && event.data.guest === true)
    void background(host, live, 'it shut itself down', () => shutItself(host, live))
  // Stopped or gone on without our asking (an I/O error, a watchdog): look when whatever runs now is done.
  if (event.event === 'STOP' || event.event === 'RESUME') void background(host, live, 'it stopped', () => look(host, live))
}

/** The guest powered itself off: that is how it is wanted now, until somebody starts it. */
async function shutItself(host: Host, live: Live): Promise<void> {
  if (!live.qmp?.open || (await runState(live.qmp)) !== 'shutdown') return
  await endProcess(host, live)
  const spec = { ...live.record.spec, power: 'off' as const }
  await note(host, live, { spec, power: 'off', reason: 'the guest shut itself down' })
}

/** Notes what QEMU says the guest is. */
async function look(host: Host, live: Live): Promise<void> {
  if (!live.qmp?.open) return
  const state = await runState(live.qmp)
  if (state === 'running') return note(host, live, { power: 'running', reason: undefined })
  if (state === 'shutdown') return
  const why = live.record.spec.power === 'running' ? `qemu stopped the guest: ${await trouble(live.qmp, state)}` : undefined
  await note(host, live, { power: 'paused', reason: why })
}

/** Why a guest stands still: QEMU's run state, and for I/O errors which disk has them. */
async function trouble(qmp: Qmp, state: string): Promise<string> {
  if (state !== 'io-error') return state
  const blocks = await qmp.execute<{ qdev?: string; 'io-status'?: string }[]>('query-block')
  const bad = blocks.filter(b => b['io-status'] && b['io-status'] !== 'ok')
  return `I/O error (${bad.map(b => `${b.qdev ?? 'disk'}: ${b['io-status']}`).join(', ')})`
}

/** The process has gone, or closed our connection. */
async function lost(host: Host, live: Live, signal: AbortSignal): Promise<void> {
  if (live.qmp?.open || live.closed) return
  live.qmp = undefined
  if (live.pid) {
    const alive = await pidGone(live.pid, 5000).then(
      () => false,
      () => true,
    )
    if (alive) {
      await attach(host, live)
      return
    }
  }
  const words = await deathWords(host, live)
  await endProcess(host, live)
  if (live.record.spec.power === 'off' || live.record.spec.power === 'suspended')
    return note(host, live, { power: live.record.saved ? 'suspended' : 'off' })
  const age = Date.now() - Date.parse(live.record.started ?? '')
  await note(host, live, { power: 'crashed', reason: words })
  if (age < RESTART_AFTER_MS) return
  host.log.warn({ guest: live.id, reason: words }, 'guest: started again after its qemu ended')
  await converge(host, live, signal)
  await note(host, live, { reason: `started again: ${words}` })
}

/**
 * Makes the guest be as its record says. `explicit`: somebody asked for it, so a guest that powered itself off is started again, which the
 * mending of an agent's start leaves off. Faults: those of starting and of plugging devices.
 */
export async function converge(host: Host, live: Live, signal: AbortSignal, explicit = true): Promise<void> {
  if (live.record.destroying) return removeGuest(host, live)
  const { power } = live.record.spec
  const qmp = await attach(host, live)
  if (qmp && !explicit && (await runState(qmp)) === 'shutdown') return shutItself(host, live)
  if (power === 'off') {
    await orderlyStop(host, live, live.record.spec.shutdownTimeout ?? 60, signal)
    await dropSaved(host, live)
    await makeFiles(host, live, signal)
    return note(host, live, { power: 'off', ...(live.record.power !== 'off' && { reason: undefined }) })
  }
  if (power === 'suspended') return convergeSuspended(host, live, qmp, signal)
  const running = await processFor(host, live, qmp, signal)
  // A fresh process has the spec's devices from its command line.
  if (running === qmp) await syncDevices(host, live, running, signal)
  await stir(host, live, running)
}

async function convergeSuspended(host: Host, live: Live, qmp: Qmp | undefined, signal: AbortSignal): Promise<void> {
  if (qmp && live.record.saved) {
    // Saved, noted, and the process not yet ended; or a process that was started to load it and has not run.
    await endProcess(host, live)
    return note(host, live, { power: 'suspended' })
  }
  if (live.record.saved) return note(host, live, { power: 'suspended', reason: undefined })
  if (!qmp) {
    await endProcess(host, live)
    await makeFiles(host, live, signal)
    const { memory } = live.record.spec
    if (memory) return bringMemory(host, live, memory, signal)
    const spec = { ...live.record.spec, power: 'off' as const }
    return note(host, live, { spec, power: 'off', reason: 'there was nothing to suspend: the guest did not run' })
  }
  await suspendGuest(host, live, qmp, signal)
}

/** A process that is fit to run the guest: the one there is, or a new one, with the saved state loaded if there is one. */
async function processFor(host: Host, live: Live, qmp: Qmp | undefined, signal: AbortSignal): Promise<Qmp> {
  if (qmp) {
    const state = await runState(qmp)
    // Its last agent died while it loaded, or it is beyond help: begin again.
    if (!['shutdown', 'inmigrate', 'internal-error', 'guest-panicked'].includes(state)) return qmp
    await endProcess(host, live)
  } else await endProcess(host, live)
  const incoming = live.record.saved === true
  const fresh = adopt(host, live, await launchGuest(host, live, signal, incoming))
  if (!incoming) return fresh
  try {
    await loadGuest(host, live, fresh, signal)
    return fresh
  } catch (error) {
    await endProcess(host, live)
    await note(host, live, { power: 'suspended', reason: reason(error) })
    throw error
  }
}

/** Lets the processors run, or stand still, as wanted. */
async function stir(host: Host, live: Live, qmp: Qmp): Promise<void> {
  const state = await runState(qmp)
  if (live.record.spec.power === 'running' && state !== 'running') await qmp.execute('cont')
  if (live.record.spec.power === 'paused' && state === 'running') await qmp.execute('stop')
  await note(host, live, { power: live.record.spec.power, reason: undefined })
}

/**
 * An orderly stop: the power button is pressed, again every ten seconds, until the guest has shut down or the time is up. Whatever it did,
 * its process has ended when this returns. True when the guest obeyed.
 */
export async function orderlyStop(host: Host, live: Live, seconds: number, signal: AbortSignal): Promise<boolean> {
  const qmp = await attach(host, live)
  let obeyed = false
  if (qmp && seconds > 0 && (await runState(qmp)) === 'running') {
    const until = performance.now() + seconds * 1000
    while (!obeyed && qmp.open && performance.now() < until) {
      signal.throwIfAborted()
      const left = Math.min(POWERDOWN_RETRY_MS, until - performance.now())
      const down = qmp.wait(e => e.event === 'SHUTDOWN', left, 'shutdown')
      await qmp.execute('system_powerdown')
      const aborted = new Promise<never>((_, reject) =>
        signal.addEventListener('abort', () => reject(signal.reason), { once: true }),
      )
      aborted.catch(() => undefined)
      obeyed = await Promise.race([down, aborted]).then(
        () => true,
        error => {
          if (signal.aborted) throw error
          return false
        },
      )
    }
  }
  await endProcess(host, live)
  return obeyed
}

/** Whether the verb makes sense now. Faults: conflict. */
export function mustBe(live: Live, ...powers: string[]): void {
  if (!powers.includes(live.record.power))
    throw conflict(`Guest ${live.id} is ${live.record.power}; it must be ${powers.join(' or ')}.`)
}

/**
 * Keeps the console log within bounds: QEMU appends to it for ever. Woken by a change, it looks once after a while, so a guest that
 * chatters costs one look every two seconds and a silent one nothing. Returns what stops it.
 */
function boundConsole(host: Host, live: Live): () => void {
  const { console: log, consoleOld } = host.store.paths(live.id)
  let watcher: FSWatcher | undefined
  let timer: NodeJS.Timeout | undefined
  let stopped = false
  const listen = () => {
    if (stopped) return
    watcher = watch(log, { persistent: false }, () => {
      watcher?.close()
      timer = setTimeout(
        () => void bound().catch(error => host.log.warn({ guest: live.id, error: reason(error) }, 'console log')),
        2000,
      )
      timer.unref()
    })
    watcher.on('error', () => undefined)
  }
  const bound = async () => {
    if (!stopped && (await stat(log)).size > host.consoleBytes) {
      await copyFile(log, consoleOld)
      await truncate(log, 0)
    }
    listen()
  }
  bound().catch(error => host.log.warn({ guest: live.id, error: reason(error) }, 'console log'))
  return () => {
    stopped = true
    clearTimeout(timer)
    watcher?.close()
  }
}

/** The last `lines` lines of the console log; its older half is read only when the newer has too few. */
export async function consoleTail(host: Host, live: Live, lines: number | undefined): Promise<string> {
  const paths = host.store.paths(live.id)
  const newer = await readEnd(paths.console, host.consoleBytes * 2)
  const enough = lines !== undefined && newer.split('\n').length > lines + 1
  const text = enough ? newer : (await readEnd(paths.consoleOld, host.consoleBytes * 2)) + newer
  if (lines === undefined) return text
  if (lines === 0) return ''
  const all = text.split('\n')
  const last = all.at(-1) === '' ? 1 : 0
  return all.slice(-(lines + last)).join('\n')
}

async function readEnd(path: string, most: number): Promise<string> {
  try {
    const file = await open(path, 'r')
    try {
      const { size } = await file.stat()
      const buffer = Buffer.alloc(Math.min(size, most))
      const { bytesRead } = await file.read(buffer, 0, buffer.length, Math.max(0, size - most))
      return buffer.subarray(0, bytesRead).toString('utf8')
    } finally {
      await file.close()
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return ''
    throw error
  }
}

/** Destroys a guest: what is under way on it is interrupted, and from here only the destroy goes on, over any crash. */
export async function destroyGuest(host: Host, live: Live, signal?: AbortSignal): Promise<void> {
  interrupt(live, conflict(`Guest ${live.id} is being destroyed.`))
  await queued(live, signal, async () => {
    if (live.gone) return
    await note(host, live, { destroying: true })
    await removeGuest(host, live)
  })
}

/** The state of things when an agent starts: find the process, finish or undo what was begun, start what should run. */
export async function mend(host: Host, live: Live): Promise<void> {
  await background(host, live, 'its agent was restarted', async signal => {
    await clearLeftovers(host, live)
    await converge(host, live, signal, false)
    if (live.record.frozen && live.record.power === 'running') await thaw(host, live)
  })
}
