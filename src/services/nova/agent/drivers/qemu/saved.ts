// Suspend and resume: a guest's memory and devices as a migration stream in a file. The stream passes through us over a unix socket: the
// sandbox keeps QEMU from starting programs (`exec:`) and old QEMUs cannot write files themselves (`file:` came with 8.2).
//
// When a saved state counts: from `saved: true` in the record (the stream is whole and on disk) until `saved: false`, which is written before
// the resumed guest runs its first instruction: after that its disks have moved on, and the old memory would destroy them.
import { createReadStream } from 'node:fs'
import { chmod, chown, copyFile, open, rename, rm, stat } from 'node:fs/promises'
import { createServer, type Server, type Socket } from 'node:net'
import { pipeline } from 'node:stream/promises'
import { connectWhenThere, type Qmp, type QmpEvent } from '#host/qemu/qmp.ts'
import { conflict, internal, reason } from '#kit/fault.ts'
import type { ImageRef } from '../../../spec.ts'
import { type Host, type Live, note } from './live.ts'
import { endProcess, ownSocket } from './start.ts'

const MINUTES = 10

/** The end of a migration, as its events tell; they come when the capability is on. */
const migrationEnd = (qmp: Qmp) =>
  qmp.wait(
    (e: QmpEvent) => e.event === 'MIGRATION' && ['completed', 'failed', 'cancelled'].includes(String(e.data.status)),
    MINUTES * 60_000,
    'migration',
  )

const eventsOn = (qmp: Qmp) => qmp.execute('migrate-set-capabilities', { capabilities: [{ capability: 'events', state: true }] })

/** Writes a running guest's state to its file and ends its process. On failure the guest goes on as before. */
export async function suspendGuest(host: Host, live: Live, qmp: Qmp, signal: AbortSignal): Promise<void> {
  const paths = host.store.paths(live.id)
  const aside = `${paths.saved}.new`
  const stop = new AbortController()
  await eventsOn(qmp)
  // Saved by a dead agent that could not note it: QEMU saves a second time only if the guest ran in between.
  if ((await qmp.execute<{ status: string }>('query-status')).status === 'postmigrate') await qmp.execute('cont')
  const { status } = await qmp.execute<{ status: string }>('query-status')
  try {
    await qmp.execute('stop')
    // Nobody waits for the guest's network meanwhile: as fast as the disk takes it.
    await qmp.execute('migrate-set-parameters', { 'max-bandwidth': 2 ** 40 })
    const server = await listenFor(live, paths.migration)
    const most = (live.record.spec.memoryMb * 2 + 1024) * 2 ** 20
    const received = receive(server, aside, most, AbortSignal.any([signal, stop.signal]))
    received.catch(() => undefined)
    const ended = migrationEnd(qmp)
    await qmp.execute('migrate', { uri: `unix:${paths.migration}` })
    const end = await Promise.race([ended, received.then(() => ended)])
    if (end.data.status !== 'completed') {
      const info = await qmp.execute<{ 'error-desc'?: string }>('query-migrate')
      throw internal(`The guest's memory could not be saved: ${info['error-desc'] ?? end.data.status}`)
    }
    await received
    await rename(aside, paths.saved)
  } catch (error) {
    stop.abort(error)
    await rm(aside, { force: true })
    if (qmp.open) {
      await qmp.execute('migrate_cancel').catch(() => undefined)
      if (status === 'running') await qmp.execute('cont').catch(() => undefined)
    }
    throw error
  }
  await note(host, live, { saved: true, power: 'suspended', reason: undefined })
  await endProcess(host, live)
}

/**
 * Ends a migration that a dead agent left under way in QEMU, before anything else is asked of it: when such a one fails later it stops, or
 * starts, the guest on its own account.
 */
export async function endMigration(qmp: Qmp): Promise<void> {
  for (const until = performance.now() + 10_000; ; ) {
    const { status = 'none' } = await qmp.execute<{ status?: string }>('query-migrate')
    if (!['setup', 'active', 'device', 'cancelling', 'pre-switchover'].includes(status)) return
    if (performance.now() > until) throw internal(`A migration of the guest is ${status} and does not end.`)
    if (status !== 'cancelling') await qmp.execute('migrate_cancel')
    await new Promise(resolve => setTimeout(resolve, 20))
  }
}

/** Loads the saved state into a process that was started for it. The guest stands still after. */
export async function loadGuest(host: Host, live: Live, qmp: Qmp, signal: AbortSignal): Promise<void> {
  const paths = host.store.paths(live.id)
  await eventsOn(qmp)
  const ended = migrationEnd(qmp)
  await qmp.execute('migrate-incoming', { uri: `unix:${paths.migration}` })
  const socket = await connectWhenThere(await ownSocket(live, paths.migration), { timeoutMs: 5000, signal })
  // QEMU reads to the mark of the end and closes: what it thinks of it comes by the event.
  pipeline(createReadStream(paths.saved, { highWaterMark: 1 << 20 }), socket, { signal }).catch(() => undefined)
  try {
    const end = await ended
    if (end.data.status !== 'completed') throw new Error(String(end.data.status))
  } catch (error) {
    throw conflict(`The guest's saved memory could not be loaded: ${reason(error)}. A hard reboot discards it.`, { cause: error })
  } finally {
    socket.destroy()
  }
  await dropSaved(host, live)
}

/** The saved state of a suspended guest, for the host that it moves to. Faults: conflict where there is none. */
export async function savedMemory(host: Host, live: Live): Promise<{ size: number; stream: AsyncIterable<Uint8Array> }> {
  if (!live.record.saved) throw conflict(`Guest ${live.id} is ${live.record.power}; it must be suspended.`)
  const path = host.store.paths(live.id).saved
  return { size: (await stat(path)).size, stream: createReadStream(path, { highWaterMark: 1 << 20 }) }
}

/** Takes over the saved state of a guest that was suspended on another host. */
export async function bringMemory(host: Host, live: Live, memory: ImageRef, signal: AbortSignal): Promise<void> {
  const paths = host.store.paths(live.id)
  const aside = `${paths.saved}.new`
  const { path } = await host.images.get(memory, { signal })
  await copyFile(path, aside)
  const file = await open(aside, 'r+')
  try {
    await file.chmod(0o600)
    await file.datasync()
  } finally {
    await file.close()
  }
  await rename(aside, paths.saved)
  await note(host, live, { saved: true, power: 'suspended', reason: undefined })
}

/** Forgets a saved state. First the record, then the file. */
export async function dropSaved(host: Host, live: Live): Promise<void> {
  if (live.record.saved) await note(host, live, { saved: false })
  await rm(host.store.paths(live.id).saved, { force: true })
}

/** Listens where only this guest's user may connect. */
async function listenFor(live: Live, path: string): Promise<Server> {
  await rm(path, { force: true })
  const server = createServer()
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(path, resolve)
  })
  await chown(path, live.record.uid, live.record.uid)
  await chmod(path, 0o600)
  return server
}

/** Takes one connection's bytes into a file, at most `most`, and syncs it. */
async function receive(server: Server, path: string, most: number, signal: AbortSignal): Promise<void> {
  // Listened for before anything is awaited: QEMU connects as soon as it is told.
  const connected = new Promise<Socket>((resolve, reject) => {
    server.once('connection', resolve)
    signal.addEventListener('abort', () => reject(signal.reason), { once: true })
  })
  connected.catch(() => undefined)
  const file = await open(path, 'w', 0o600)
  try {
    const socket = await connected
    signal.addEventListener('abort', () => socket.destroy(), { once: true })
    let size = 0
    for await (const chunk of socket as AsyncIterable<Buffer>) {
      size += chunk.length
      if (size > most) throw internal(`The guest's saved memory is larger than ${most} bytes.`)
      for (let done = 0; done < chunk.length; ) done += (await file.write(chunk, done)).bytesWritten
    }
    await file.datasync()
  } finally {
    server.close()
    await file.close()
  }
}
