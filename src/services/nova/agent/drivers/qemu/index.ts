/** The compute driver over qemu: see driver.ts for what its verbs promise, store.ts for what is kept where. */

import { rm } from 'node:fs/promises'
import { connect } from 'node:net'
import { groupRemove } from '#host/cgroup/index.ts'
import { conflict, notFound, reason } from '#kit/fault.ts'
import type { Disk, Guest, GuestSpec, ImageRef } from '../../../spec.ts'
import { specCheck } from '../../check.ts'
import type { ComputeDriver, Options } from '../../driver.ts'
import { queued } from '../../queue.ts'
import { guestDiagnostics } from './diagnostics.ts'
import { diskFile, diskGrow } from './disks.ts'
import { type Findings, inventoryOf, openHost, type QemuOptions, sweep, thingsOf } from './host.ts'
import { plugTaps, resizeNode } from './hotplug.ts'
import { type Host, type Live, liveOf, note, view } from './live.ts'
import { machineDisk, RESCUE_DISK } from './machine.ts'
import { attach, consoleTail, converge, destroyGuest, mend, mustBe, orderlyStop } from './power.ts'
import { dropSaved, savedMemory } from './saved.ts'
import { askAgent, freeze, snapshotDisk, thaw } from './snapshot.ts'
import { endProcess, findProcess, ownSocket } from './start.ts'

export { type QemuOptions, qemuWipe } from './host.ts'

/** A driver; nothing is touched before `open`. */
export function qemuDriver(options: QemuOptions): ComputeDriver {
  const lives = new Map<string, Live>()
  const watchers = new Set<(guest: Guest) => void>()
  const coming = new Map<string, Promise<Live>>()
  let opened: { host: Host; findings: Findings } | undefined

  const changed = (guest: Guest) => {
    for (const fn of watchers) fn(guest)
  }
  const host = (): Host => {
    if (!opened) throw new Error('the qemu driver is not open')
    return opened.host
  }
  const here = (id: string): Live => {
    const live = lives.get(id)
    if (!live) throw notFound(`Guest ${id} is not on this host.`)
    return live
  }

  /** The guest's place in memory, made with its record when it is new. Two who ensure it at once get the same. */
  function liveFor(spec: GuestSpec): Promise<Live> {
    const found = lives.get(spec.id)
    if (found) return Promise.resolve(found)
    let making = coming.get(spec.id)
    if (!making) {
      making = host()
        .store.create(spec)
        .then(record => {
          const live = liveOf(record)
          lives.set(spec.id, live)
          return live
        })
        .finally(() => coming.delete(spec.id))
      coming.set(spec.id, making)
    }
    return making
  }

  /** Changes the spec and makes it so; when that fails the spec is what it was. */
  async function change(id: string, { signal }: Options, edit: (spec: GuestSpec) => GuestSpec): Promise<Guest> {
    const live = here(id)
    return queued(live, signal, async either => {
      const before = live.record.spec
      const spec = edit(before)
      if (spec === before) return view(live)
      await note(host(), live, { spec })
      try {
        // A guest that does not run has nothing to plug: its next start has it.
        if (await findProcess(host(), live)) await converge(host(), live, either)
        await plugTaps(host(), live)
      } catch (error) {
        await note(host(), live, { spec: before })
        throw error
      }
      return view(live)
    })
  }

  const diskOf = (live: Live, name: string): Disk => {
    const disk = live.record.spec.disks.find(d => d.name === name)
    if (!disk) throw notFound(`Guest ${live.id} has no disk ${name}.`)
    return disk
  }

  const usedImages = (): ImageRef[] =>
    [...lives.values()].flatMap(({ record: { spec } }) => [
      ...spec.disks.flatMap(disk => (disk.kind === 'image' ? [disk.image] : [])),
      ...[spec.kernel?.kernel, spec.kernel?.ramdisk, spec.rescue?.image, spec.rescue?.kernel, spec.rescue?.ramdisk].filter(
        i => i !== undefined,
      ),
    ])

  return {
    async open() {
      opened = await openHost(options, changed)
      const { store, images, log } = opened.host
      await images.clean()
      let unreadable = 0
      for (const id of await store.scan()) {
        const record = await store.read(id).catch(error => {
          unreadable++
          log.error({ guest: id, error: reason(error) }, 'guest: its record cannot be read; left alone')
          return undefined
        })
        if (record) lives.set(id, liveOf(record))
      }
      const all = [...lives.values()]
      // What looks like nobody's may be that of a guest whose record cannot be read.
      if (unreadable === 0)
        await sweep(
          opened.host,
          all.map(live => ({ id: live.id, uid: live.record.uid })),
        )
      // Re-attaching is quick and done before anything else is asked; what takes long (images, starts) goes on in each guest's queue.
      const mending = all.map(async live => {
        await mend(opened!.host, live)
        if (live.gone) lives.delete(live.id)
      })
      void Promise.all(mending)
    },

    async close() {
      for (const live of lives.values()) {
        live.closed = true
        live.unwatch?.()
        live.qmp?.close()
      }
      lives.clear()
      watchers.clear()
    },

    async ensure(spec, { signal } = {}) {
      specCheck(spec)
      const live = await liveFor(spec)
      return queued(live, signal, async either => {
        const { record } = live
        if (record.destroying) throw conflict(`Guest ${spec.id} is being destroyed.`)
        if (spec.revision < record.spec.revision)
          throw conflict(`Guest ${spec.id} is known in revision ${record.spec.revision}; ${spec.revision} is older.`)
        await note(host(), live, { spec })
        try {
          await converge(host(), live, either)
        } catch (error) {
          if (!either.aborted) await note(host(), live, { reason: reason(error) })
          throw error
        }
        return view(live)
      })
    },

    async destroy(id, { signal } = {}) {
      const live = lives.get(id)
      if (!live) return
      await destroyGuest(host(), live, signal)
      lives.delete(id)
      changed({ ...view(live), power: 'off', destroying: true })
    },

    async inspect(id) {
      const live = lives.get(id)
      return live ? view(live) : null
    },

    async list() {
      return [...lives.values()].map(view)
    },

    watch(fn) {
      watchers.add(fn)
      return () => void watchers.delete(fn)
    },

    async power(id, to, { signal, timeout, revision = 0 } = {}) {
      const live = here(id)
      return queued(live, signal, async either => {
        const { spec } = live.record
        if (to === 'suspended' && live.record.power === 'off')
          throw conflict(`Guest ${id} is off; it must be running to be suspended.`)
        if (to === 'paused') mustBe(live, 'running', 'paused')
        await note(host(), live, {
          spec: { ...spec, power: to, revision: Math.max(spec.revision, revision) },
          ...(to === 'off' && { reason: undefined }),
        })
        if (to === 'off') await orderlyStop(host(), live, timeout ?? spec.shutdownTimeout ?? 60, either)
        await converge(host(), live, either)
        return view(live)
      })
    },

    async reboot(id, kind, { signal, timeout } = {}) {
      const live = here(id)
      return queued(live, signal, async either => {
        const { spec } = live.record
        // What is wanted all along is a running guest: an agent that dies in between starts it.
        await note(host(), live, { spec: { ...spec, power: 'running' } })
        if (kind === 'soft') await orderlyStop(host(), live, timeout ?? spec.shutdownTimeout ?? 60, either)
        else await endProcess(host(), live)
        await dropSaved(host(), live)
        await converge(host(), live, either)
        return view(live)
      })
    },

    consoleOutput: async (id, lines) => consoleTail(host(), here(id), lines),
    inventory: async () => inventoryOf(host(), opened!.findings, options),

    attachNic: (id, nic, opts = {}) =>
      change(id, opts, spec => ({ ...spec, nics: [...spec.nics.filter(n => n.portId !== nic.portId), nic] })),
    detachNic: (id, portId, opts = {}) =>
      change(id, opts, spec => {
        const nics = spec.nics.filter(nic => nic.portId !== portId)
        return nics.length === spec.nics.length ? spec : { ...spec, nics }
      }),
    attachDisk: (id, disk, opts = {}) =>
      change(id, opts, spec => ({ ...spec, disks: [...spec.disks.filter(d => d.name !== disk.name), disk] })),
    async detachDisk(id, name, opts = {}) {
      const gone = here(id).record.spec.disks.find(disk => disk.name === name)
      const guest = await change(id, opts, spec =>
        gone ? { ...spec, disks: spec.disks.filter(disk => disk.name !== name) } : spec,
      )
      if (gone && gone.kind !== 'volume') await rm(diskFile(host().store.paths(id).folder, gone), { force: true })
      return guest
    },

    async resizeDisk(id, name, bytes, { signal } = {}) {
      const live = here(id)
      await queued(live, signal, async () => {
        const disk = diskOf(live, name)
        const qmp = await attach(host(), live)
        const place = { folder: host().store.paths(id).folder, uid: live.record.uid, images: host().images }
        if (qmp) await resizeNode(qmp, machineDisk(disk, { type: 'file', path: '', format: 'raw' }), bytes)
        else if (disk.kind !== 'volume') await diskGrow(place, disk, bytes)
      })
    },

    async snapshot(id, name, { signal, format = 'qcow2', quiesce = false } = {}) {
      const live = here(id)
      return queued(live, signal, async either => {
        const disk = diskOf(live, name)
        if (disk.kind === 'volume') throw conflict(`Disk ${name} is a volume: its storage makes its snapshots.`)
        return snapshotDisk(host(), live, disk, { qmp: await attach(host(), live), format, quiesce, signal: either })
      })
    },

    async memoryOut(id) {
      const live = here(id)
      return queued(live, undefined, () => savedMemory(host(), live))
    },
    async rescue(id, rescue, { signal } = {}) {
      const live = here(id)
      return queued(live, signal, async either => {
        if (live.record.power === 'suspended') throw conflict(`Guest ${id} is suspended.`)
        const { spec } = live.record
        await orderlyStop(host(), live, spec.shutdownTimeout ?? 60, either)
        await note(host(), live, { spec: { ...spec, power: 'running', rescue } })
        await converge(host(), live, either)
        return view(live)
      })
    },

    async unrescue(id, { signal } = {}) {
      const live = here(id)
      return queued(live, signal, async either => {
        const { rescue, ...spec } = live.record.spec
        if (rescue) {
          await endProcess(host(), live)
          await note(host(), live, { spec: { ...spec, power: 'running' } })
          await rm(diskFile(host().store.paths(id).folder, { name: RESCUE_DISK, kind: 'image' }), { force: true })
          await converge(host(), live, either)
        }
        return view(live)
      })
    },

    async setPassword(id, user, password, { signal } = {}) {
      const live = here(id)
      const args = { username: user, password: Buffer.from(password).toString('base64'), crypted: false }
      await queued(live, signal, () => askAgent(host(), live, 'guest-set-user-password', args))
    },
    async quiesce(id, { signal } = {}) {
      const live = here(id)
      await queued(live, signal, () => freeze(host(), live))
    },
    async unquiesce(id, { signal } = {}) {
      const live = here(id)
      await queued(live, signal, () => thaw(host(), live))
    },

    async diagnostics(id) {
      const live = here(id)
      return queued(live, undefined, async () => {
        const qmp = await attach(host(), live)
        if (!qmp) throw conflict(`Guest ${id} is ${live.record.power}; it has no diagnostics.`)
        return guestDiagnostics(host(), live, qmp)
      })
    },

    async injectNmi(id) {
      const live = here(id)
      await queued(live, undefined, async () => {
        mustBe(live, 'running')
        const qmp = await attach(host(), live)
        await qmp?.execute('inject-nmi')
      })
    },

    async console(id, kind) {
      const live = here(id)
      mustBe(live, 'running', 'paused')
      const { spec } = live.record
      if (kind === 'vnc' && spec.video === 'none')
        throw conflict(`Guest ${id} has no graphical console.`, { type: 'ConsoleTypeUnavailable' })
      if (kind === 'serial' && spec.serialPorts === 0)
        throw conflict(`Guest ${id} has no serial port.`, { type: 'ConsoleTypeUnavailable' })
      const path = await ownSocket(live, host().store.paths(id).sockets[kind])
      const socket = connect(path)
      await new Promise<void>((resolve, reject) => {
        socket.once('connect', resolve)
        socket.once('error', error =>
          reject(conflict(`The console of guest ${id} does not answer: ${error.message}`, { cause: error })),
        )
      })
      return socket
    },

    async cacheImage(image, opts = {}) {
      await host().images.get(image, opts)
    },
    ageImages: async seconds => host().images.age(seconds, usedImages()),

    async things() {
      const guests = [...lives].map(([id, { record }]) => {
        const running = record.power === 'running' || record.power === 'paused'
        return [id, { uid: record.uid, running, taps: record.spec.nics.map(nic => nic.tap) }] as const
      })
      return thingsOf(host(), new Map(guests))
    },
    async wipe() {
      for (const live of [...lives.values()]) await destroyGuest(host(), live)
      lives.clear()
      await sweep(host(), [])
      await host().store.wipe()
      await groupRemove(host().cgroups, host().scope)
      await rm(host().dataDir, { recursive: true, force: true })
    },
  }
}
