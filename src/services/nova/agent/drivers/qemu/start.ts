// A guest's process: making what it needs, starting it, finding it again, ending it. All of it can be run again after a crash at any point:
// files are made aside and renamed, taps and groups are brought to a wanted state, and the guest's lock forbids a second process.
import { randomBytes } from 'node:crypto'
import { lstat, readdir, readFile, readlink, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { groupEnsure, groupOomKills, groupPids, groupRemove } from '#host/cgroup/index.ts'
import { argv, rootPorts } from '#host/qemu/argv.ts'
import { pickFirmware, withPackage } from '#host/qemu/probe.ts'
import { lastWords, launch, lockHeld, pidAlive, pidGone, pidRead, pidsOfUsers, signalPid } from '#host/qemu/process.ts'
import { type Qmp, QmpClosed, qmpConnect } from '#host/qemu/qmp.ts'
import { tapList, tapRemove } from '#host/qemu/tap.ts'
import { Fault, internal, reason, unavailable } from '#kit/fault.ts'
import type { ImageRef } from '../../../spec.ts'
import { configDriveFile, consoleFile, diskMake, varsFile } from './disks.ts'
import { plugTaps } from './hotplug.ts'
import { type Host, type Live, note } from './live.ts'
import { groupLimits, type Made, machineOf, RESCUE_DISK } from './machine.ts'

const groupOf = (host: Host, id: string): string => `${host.scope}/${id}`
const placeOf = (host: Host, live: Live) => ({
  folder: host.store.paths(live.id).folder,
  uid: live.record.uid,
  images: host.images,
})

/** Makes (or finds) all files that the guest's machine is built from. */
export async function makeFiles(host: Host, live: Live, signal: AbortSignal): Promise<Made> {
  const { spec } = live.record
  const place = placeOf(host, live)
  const paths = host.store.paths(live.id)
  const made: Made = { sources: {} }
  const drive = spec.rescue?.configDrive ?? spec.configDrive
  await Promise.all([
    ...spec.disks.map(async disk => {
      made.sources[disk.name] = await diskMake(place, disk, { signal })
    }),
    (async () => {
      if (drive) made.configDrive = await configDriveFile(place, drive)
    })(),
    consoleFile(place, paths.console),
  ])
  if (spec.rescue) {
    const { image, bus, device } = spec.rescue
    const disk = {
      kind: 'image',
      name: RESCUE_DISK,
      image,
      bus,
      sizeGb: 0,
      device: device === 'cdrom' ? 'cdrom' : 'disk',
    } as const
    made.rescue = await diskMake(place, disk, { signal })
  }
  const kernel = spec.rescue?.kernel
    ? { kernel: spec.rescue.kernel, ramdisk: spec.rescue.ramdisk }
    : spec.rescue
      ? undefined
      : spec.kernel
  if (kernel) {
    const file = async (image: ImageRef) => (await host.images.get(image, { signal })).path
    made.kernel = { path: await file(kernel.kernel), ...(kernel.ramdisk && { initrd: await file(kernel.ramdisk) }) }
  }
  if (spec.firmware === 'uefi') {
    const found = pickFirmware(host.firmware, spec.secureBoot === true)
    if (!found) {
      const kind = spec.secureBoot ? 'UEFI firmware with secure boot' : 'UEFI firmware'
      throw unavailable(`No ${kind} on this host: install package ovmf.`)
    }
    await varsFile(place, paths.vars, found.vars)
    made.vars = { ...found, vars: paths.vars }
  }
  return made
}

/**
 * Starts the guest's process and connects to it; its processors stand still yet. `incoming`: it waits for a saved state.
 * Faults: badRequest for a spec or image that cannot work, unavailable for what the host lacks, with the machine's own words.
 */
export async function launchGuest(host: Host, live: Live, signal: AbortSignal, incoming: boolean): Promise<Qmp> {
  const paths = host.store.paths(live.id)
  let exited: Promise<void> | undefined
  try {
    const [made] = await Promise.all([makeFiles(host, live, signal), withPackage(plugTaps(host, live))])
    signal.throwIfAborted()
    const type = live.record.machine ?? host.machines[live.record.spec.machine ?? 'q35'] ?? live.record.spec.machine ?? 'q35'
    const spec = { ...live.record.spec, machine: type }
    const machine = machineOf(spec, made, { ...host, paths, kept: live.record.slots, incoming })
    const [enter] = await Promise.all([
      groupEnsure(host.cgroups, groupOf(host, live.id), groupLimits(spec, host.accel)),
      note(host, live, {
        slots: machine.slots,
        ports: rootPorts(machine.slots),
        machine: type,
        started: new Date().toISOString(),
      }),
      rm(paths.run, { recursive: true, force: true }).then(() => host.store.runFolder(live.record)),
    ])
    signal.throwIfAborted()
    live.exit = undefined
    const { uid } = live.record
    const files = { cwd: paths.folder, lock: paths.lock, pidFile: paths.pid, log: paths.log }
    const process = await launch({ argv: argv(machine), uid, groups: host.groups, enter, netns: host.netns, ...files })
    const gone = new AbortController()
    exited = process.exited.then(exit => {
      live.exit = exit
      gone.abort()
    })
    const qmp = await qmpConnect(paths.sockets.qmp, { timeoutMs: 30_000, signal: AbortSignal.any([signal, gone.signal]) })
    live.pid = await pidRead(paths.pid)
    return qmp
  } catch (error) {
    // A QEMU that dies at once closes its socket a moment before its end is known, and that end says why.
    if (error instanceof QmpClosed && !signal.aborted)
      await Promise.race([exited, new Promise(resolve => setTimeout(resolve, 1000))])
    const ended = live.exit && (await readFile(paths.log, 'utf8').catch(() => ''))
    await endProcess(host, live)
    if (signal.aborted) throw signal.reason
    if (ended !== undefined) throw unavailable(`qemu did not start: ${lastWords(ended) || exitWords(live)}`, { cause: error })
    throw explained(error)
  }
}

/** How a process that we saw ending did end, in words. */
export function exitWords(live: Live): string {
  if (!live.exit) return 'its process has gone'
  return live.exit.signal ? `it was killed by ${live.exit.signal}` : `it ended with exit code ${live.exit.code}`
}

function explained(error: unknown): Error {
  if (error instanceof Fault) return error
  const said = reason(error)
  if (/is not installed on this host/.test(said)) return unavailable(said, { cause: error })
  if (/No space left on device|ENOSPC/.test(said)) return unavailable(said, { type: 'NoSpace', cause: error })
  return internal(said, { cause: error })
}

/** Whether a process holds the guest's lock: while it does, one of the guest exists. Cheap for a guest that never had one. */
async function isLocked({ folder, lock }: { folder: string; lock: string }): Promise<boolean> {
  return (await readdir(folder)).includes('lock') && (await lockHeld(lock))
}

/** Whether a process of this guest exists; one that is just being started by a dead agent's script is waited for. */
export async function findProcess(host: Host, live: Live): Promise<boolean> {
  const { pid, lock, folder } = host.store.paths(live.id)
  const until = performance.now() + 5000
  for (;;) {
    const found = await pidRead(pid)
    if (found && (await pidAlive(found))) {
      live.pid = found
      return true
    }
    live.pid = undefined
    if (!(await isLocked({ folder, lock }))) return false
    if (performance.now() > until) throw internal(`A process holds ${lock} but is in no pid file.`)
    await new Promise(resolve => setTimeout(resolve, 20))
  }
}

/**
 * A socket in the guest user's own folder, before we connect to it: a guest that broke out of QEMU could put a link to somebody else's
 * socket there. Throws when it is not a socket of this guest's user.
 */
export async function ownSocket(live: Live, path: string): Promise<string> {
  const found = await lstat(path)
  if (!found.isSocket() || found.uid !== live.record.uid) throw internal(`${path} is not the guest's own socket.`)
  return path
}

/** As ownSocket, of a process that may have been started a moment ago, by an agent that has been killed since: its socket is waited for. */
async function ownSocketSoon(live: Live, path: string): Promise<string> {
  for (const until = performance.now() + SOCKET_MS; ; ) {
    try {
      return await ownSocket(live, path)
    } catch (error) {
      const lives = live.pid !== undefined && (await pidAlive(live.pid))
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || !lives || performance.now() > until) throw error
    }
    await new Promise(resolve => setTimeout(resolve, 20))
  }
}
const SOCKET_MS = 5000

/** Connects to a running guest's QEMU. @throws Fault unavailable when it does not answer. */
export async function connectGuest(host: Host, live: Live): Promise<Qmp> {
  const path = host.store.paths(live.id).sockets.qmp
  try {
    const qmp = await qmpConnect(await ownSocketSoon(live, path), { timeoutMs: 5000 })
    const { UUID } = await qmp.execute<{ UUID: string }>('query-uuid')
    if (UUID === live.id) return qmp
    qmp.close()
    throw new Error(`it is guest ${UUID}`)
  } catch (error) {
    throw unavailable(`The guest's qemu (process ${live.pid?.pid}) does not answer: ${reason(error)}`, { cause: error })
  }
}

/** Every process of the guest: by its pid file and its control group, and, where those do not know it, as its user in its folder. */
async function guestPids(host: Host, live: Live, locked: boolean): Promise<number[]> {
  const { folder, pid } = host.store.paths(live.id)
  const pids = new Set(await groupPids(host.cgroups, groupOf(host, live.id)))
  const filed = await pidRead(pid)
  if (filed && (await pidAlive(filed))) pids.add(filed.pid)
  if (pids.size > 0 || !locked) return [...pids]
  // Somebody has the lock whom neither knows. Looking at every process of the host is slow, and seldom needed.
  for (const { pid: candidate } of await pidsOfUsers(live.record.uid, 1)) {
    const cwd = await readlink(`/proc/${candidate}/cwd`).catch(() => '')
    if (cwd.startsWith(folder)) pids.add(candidate)
  }
  return [...pids]
}

/**
 * Ends the guest's process, if there is one, and what lives with it: its control group and its sockets. QEMU is asked first, so that it
 * writes what it holds of the disks' metadata; then killed. Whatever started it, nothing of it runs when this returns.
 */
export async function endProcess(host: Host, live: Live): Promise<void> {
  const paths = host.store.paths(live.id)
  const { qmp } = live
  live.qmp = undefined
  live.unwatch?.()
  live.unwatch = undefined
  if (qmp?.open) {
    qmp.execute('quit', undefined, 3000).catch(() => undefined)
    await Promise.race([qmp.closed, new Promise(resolve => setTimeout(resolve, 3000).unref())])
    qmp.close()
    if (live.pid) await pidGone(live.pid, 2000).catch(() => undefined)
  }
  const until = performance.now() + 10_000
  for (;;) {
    const locked = await isLocked(paths)
    const pids = await guestPids(host, live, locked)
    for (const pid of pids) signalPid(pid, 'SIGKILL')
    if (pids.length === 0 && !locked) break
    if (performance.now() > until) throw internal(`Processes ${pids.join(', ')} of guest ${live.id} do not end after SIGKILL.`)
    await new Promise(resolve => setTimeout(resolve, 10))
  }
  live.pid = undefined
  await rm(paths.pid, { force: true })
  await groupRemove(host.cgroups, groupOf(host, live.id))
  await rm(paths.run, { recursive: true, force: true })
}

/** Why the process has gone, as far as the machine tells: out of memory, killed, or QEMU's own last words. */
export async function deathWords(host: Host, live: Live): Promise<string> {
  const log = await readFile(host.store.paths(live.id).log, 'utf8').catch(() => '')
  const kills = await groupOomKills(host.cgroups, groupOf(host, live.id))
  if (kills > 0) return 'qemu was killed because its memory limit was reached'
  const words = lastWords(log)
  return `qemu ended unexpectedly: ${exitWords(live)}${words ? ` (${words})` : ''}`
}

/** Takes away all that the guest has on this host. Order: what runs, what it holds of the machine, last the folder that says it exists. */
export async function removeGuest(host: Host, live: Live): Promise<void> {
  await endProcess(host, live)
  const names = new Set(live.record.spec.nics.map(nic => nic.tap))
  for (const tap of await tapList(host.netns))
    if (tap.uid === live.record.uid || (names.has(tap.name) && tap.uid === undefined)) await tapRemove(tap.name, host.netns)
  await host.store.remove(live.id)
  live.gone = true
}

/** What interrupted work of earlier agents left in the guest's folder. */
export async function clearLeftovers(host: Host, live: Live): Promise<void> {
  const { folder } = host.store.paths(live.id)
  for (const name of await readdir(folder))
    if (name.endsWith('.new') || name.startsWith('.config-') || name.startsWith('snapshot-'))
      await rm(join(folder, name), { recursive: true, force: true })
}

/** A name for a passing file. */
export const passing = (folder: string, what: string): string => join(folder, `${what}-${randomBytes(4).toString('hex')}`)
