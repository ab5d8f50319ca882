/**
 * The memory twin of the qemu driver: the same verbs, states and refusals, on guests that are only pretended. Thousands of them in a
 * process cost next to nothing: a record each, no timers while nothing happens. What stands for the host (its guests, "running" while no
 * agent looks) is a world that outlives the driver, so that an agent's restart can be pretended too.
 */
import type { Duplex } from 'node:stream'
import { qcow2Empty } from '#host/qemu/qcow2.ts'
import { conflict, notFound, unavailable } from '#kit/fault.ts'
import type { Disk, Guest, GuestPower, GuestSpec, HostInventory } from '../../../spec.ts'
import { specCheck } from '../../check.ts'
import type { ComputeDriver, Options } from '../../driver.ts'
import { interrupt, type Queue, queued, queueNew } from '../../queue.ts'
import { pretendedScreen, pretendedSerial } from './pretend.ts'

export type Verb = 'ensure' | 'destroy' | 'power' | 'reboot' | 'attach' | 'detach' | 'snapshot' | 'rescue' | 'agent'

export interface MemoryOptions {
  world: MemoryWorld
  hostname?: string
  vcpus?: number
  memoryMb?: number
  diskGb?: number
  /** Milliseconds that a verb takes. */
  delay?: (verb: Verb, id: string) => number
  /** What a verb fails with, if it is to fail. */
  fail?: (verb: Verb, id: string) => Error | undefined
}

interface Pretended extends Queue {
  spec: GuestSpec
  power: GuestPower
  since: string
  reason?: string
  boots: number
  startedAt: number
  console: string
  frozen?: boolean
}

export interface MemoryWorld {
  readonly guests: Map<string, Pretended>
  /** The guest powers itself off, as if somebody in it had said so. */
  shutItself(id: string): void
  /** Tells the driver that is open, if one is. */
  changed?: (guest: Guest) => void
}

const CONSOLE_BYTES = 4096

export function memoryWorld(): MemoryWorld {
  const guests = new Map<string, Pretended>()
  const world: MemoryWorld = {
    guests,
    shutItself(id) {
      const guest = guests.get(id)
      if (guest?.power !== 'running') return
      guest.spec = { ...guest.spec, power: 'off' }
      settle(world, guest, 'off', 'the guest shut itself down')
    },
  }
  return world
}

function view({ spec, power, since, reason }: Pretended): Guest {
  return {
    id: spec.id,
    revision: spec.revision,
    power,
    wanted: spec.power,
    since,
    ...(reason !== undefined && { reason }),
    ...(spec.rescue && { rescued: true }),
  }
}

function settle(world: MemoryWorld, guest: Pretended, power: GuestPower, reason?: string): void {
  if (guest.power === power && guest.reason === reason) return
  if (guest.power !== power) guest.since = new Date().toISOString()
  guest.power = power
  guest.reason = reason
  world.changed?.(view(guest))
}

function boot(guest: Pretended): void {
  guest.boots++
  guest.startedAt = Date.now()
  guest.console = `${guest.console}boot ${guest.boots}\r\nready\r\n`.slice(-CONSOLE_BYTES)
}

/** Brings a pretended guest to its spec's power state, as the real driver does. */
function converge(world: MemoryWorld, guest: Pretended): void {
  const { power } = guest.spec
  const had = guest.power
  if (power === 'suspended' && (had === 'off' || had === 'crashed') && !guest.spec.memory) {
    guest.spec = { ...guest.spec, power: 'off' }
    settle(world, guest, 'off', 'there was nothing to suspend: the guest did not run')
    return
  }
  if ((power === 'running' || power === 'paused') && (had === 'off' || had === 'crashed')) boot(guest)
  settle(world, guest, power)
}

function inventoryOf({
  hostname = 'memory',
  vcpus = 64,
  memoryMb = 262_144,
  diskGb = 4096,
  world,
}: MemoryOptions): HostInventory {
  const specs = [...world.guests.values()].map(guest => guest.spec)
  const usedMb = specs.reduce((sum, spec) => sum + spec.memoryMb, 0)
  const usedGb = specs.reduce(
    (sum, spec) => sum + spec.disks.reduce((gb, disk) => gb + ('sizeGb' in disk ? disk.sizeGb : 0), 0),
    0,
  )
  return {
    hostname,
    // As the driver that it is the twin of: images that ask for a hypervisor and clients that look for one find the same cloud.
    hypervisorType: 'QEMU',
    hypervisorVersion: 1_000_000,
    accelerator: 'memory',
    architecture: 'x86_64',
    vcpus,
    memoryMb,
    memoryFreeMb: Math.max(0, memoryMb - usedMb),
    diskGb,
    diskFreeGb: Math.max(0, diskGb - usedGb),
    uptimeSeconds: Math.floor(process.uptime()),
    loadAverage: [0, 0, 0],
    cpu: { vendor: 'Nubo', model: 'pretended', topology: { sockets: 1, cores: vcpus, threads: 1 }, features: [] },
    traits: [
      'COMPUTE_FIRMWARE_BIOS',
      'COMPUTE_IMAGE_TYPE_QCOW2',
      'COMPUTE_IMAGE_TYPE_RAW',
      'COMPUTE_NET_ATTACH_INTERFACE',
      'COMPUTE_NET_ATTACH_INTERFACE_WITH_TAG',
      'COMPUTE_NET_VIF_MODEL_VIRTIO',
      'COMPUTE_NODE',
      'COMPUTE_RESCUE_BFV',
      'COMPUTE_STORAGE_BUS_SCSI',
      'COMPUTE_STORAGE_BUS_VIRTIO',
      'COMPUTE_VOLUME_ATTACH',
      'COMPUTE_VOLUME_ATTACH_WITH_TAG',
      'COMPUTE_VOLUME_MULTI_ATTACH',
      'HW_ARCH_X86_64',
    ],
  }
}

/** A driver over `options.world`. */
export function memoryDriver(options: MemoryOptions): ComputeDriver {
  const { world } = options
  const watchers = new Set<(guest: Guest) => void>()
  const images = new Set<string>()

  const here = (id: string): Pretended => {
    const guest = world.guests.get(id)
    if (!guest) throw notFound(`Guest ${id} is not on this host.`)
    return guest
  }
  const mustBe = (guest: Pretended, ...powers: GuestPower[]) => {
    if (!powers.includes(guest.power))
      throw conflict(`Guest ${guest.spec.id} is ${guest.power}; it must be ${powers.join(' or ')}.`)
  }
  const diskOf = (guest: Pretended, name: string): Disk => {
    const disk = guest.spec.disks.find(d => d.name === name)
    if (!disk) throw notFound(`Guest ${guest.spec.id} has no disk ${name}.`)
    return disk
  }

  /** Runs in the guest's queue, after the verb's time, and fails where it is to fail. */
  const act = <T>(verb: Verb, guest: Pretended, { signal }: Options, fn: () => T): Promise<T> =>
    queued(guest, signal, async either => {
      const ms = options.delay?.(verb, guest.spec.id) ?? 0
      if (ms > 0) await pause(ms, either)
      const error = options.fail?.(verb, guest.spec.id)
      if (error) {
        settle(world, guest, guest.power, error.message)
        throw error
      }
      return fn()
    })

  const change = (verb: Verb, id: string, opts: Options, edit: (spec: GuestSpec) => GuestSpec): Promise<Guest> => {
    const guest = here(id)
    return act(verb, guest, opts, () => {
      guest.spec = edit(guest.spec)
      return view(guest)
    })
  }
  const agent = async (id: string, opts: Options, fn: (guest: Pretended) => void): Promise<void> => {
    const guest = here(id)
    await act('agent', guest, opts, () => {
      if (guest.power !== 'running') throw conflict(`Guest ${id} is ${guest.power}: its agent cannot be asked.`)
      if (guest.spec.guestAgent === false) throw conflict('The guest has no guest agent.', { type: 'QemuGuestAgentNotEnabled' })
      fn(guest)
    })
  }

  return {
    async open() {
      world.changed = guest => {
        for (const fn of watchers) fn(guest)
      }
    },
    async close() {
      for (const guest of world.guests.values()) interrupt(guest, unavailable('The agent stops.'))
      world.changed = undefined
      watchers.clear()
    },
    async ensure(spec, opts = {}) {
      specCheck(spec)
      let guest = world.guests.get(spec.id)
      if (!guest) {
        guest = { spec, power: 'off', since: new Date().toISOString(), boots: 0, startedAt: 0, console: '', ...queueNew() }
        world.guests.set(spec.id, guest)
      }
      const live = guest
      return act('ensure', live, opts, () => {
        if (spec.revision < live.spec.revision)
          throw conflict(`Guest ${spec.id} is known in revision ${live.spec.revision}; ${spec.revision} is older.`)
        live.spec = spec
        converge(world, live)
        return view(live)
      })
    },
    async destroy(id, opts = {}) {
      const guest = world.guests.get(id)
      if (!guest) return
      interrupt(guest, conflict(`Guest ${id} is being destroyed.`))
      await act('destroy', guest, opts, () => {
        if (world.guests.get(id) !== guest) return
        world.guests.delete(id)
        world.changed?.({ ...view(guest), power: 'off', destroying: true })
      })
    },
    async inspect(id) {
      const guest = world.guests.get(id)
      return guest ? view(guest) : null
    },
    list: async () => [...world.guests.values()].map(view),
    watch(fn) {
      watchers.add(fn)
      return () => void watchers.delete(fn)
    },
    async power(id, to, opts = {}) {
      const guest = here(id)
      return act('power', guest, opts, () => {
        if (to === 'suspended' && guest.power === 'off') throw conflict(`Guest ${id} is off; it must be running to be suspended.`)
        if (to === 'paused') mustBe(guest, 'running', 'paused')
        guest.spec = { ...guest.spec, power: to, revision: Math.max(guest.spec.revision, opts.revision ?? 0) }
        converge(world, guest)
        return view(guest)
      })
    },
    async reboot(id, _kind, opts = {}) {
      const guest = here(id)
      return act('reboot', guest, opts, () => {
        guest.spec = { ...guest.spec, power: 'running' }
        boot(guest)
        settle(world, guest, 'running')
        return view(guest)
      })
    },
    async consoleOutput(id, lines) {
      const text = here(id).console
      if (lines === undefined) return text
      return lines === 0
        ? ''
        : text
            .split('\n')
            .slice(-(lines + 1))
            .join('\n')
    },
    inventory: async () => inventoryOf(options),

    attachNic: async (id, nic, opts = {}) =>
      change('attach', id, opts, spec => ({ ...spec, nics: [...spec.nics.filter(n => n.portId !== nic.portId), nic] })),
    detachNic: async (id, portId, opts = {}) =>
      change('detach', id, opts, spec => ({ ...spec, nics: spec.nics.filter(nic => nic.portId !== portId) })),
    attachDisk: async (id, disk, opts = {}) =>
      change('attach', id, opts, spec => ({ ...spec, disks: [...spec.disks.filter(d => d.name !== disk.name), disk] })),
    detachDisk: async (id, name, opts = {}) =>
      change('detach', id, opts, spec => ({ ...spec, disks: spec.disks.filter(disk => disk.name !== name) })),
    async resizeDisk(id, name, bytes, opts = {}) {
      const guest = here(id)
      await act('attach', guest, opts, () => {
        const disk = diskOf(guest, name)
        if (!('sizeGb' in disk)) return
        const grown = { ...disk, sizeGb: Math.max(disk.sizeGb, Math.ceil(bytes / 2 ** 30)) }
        guest.spec = { ...guest.spec, disks: guest.spec.disks.map(d => (d === disk ? grown : d)) }
      })
    },

    async snapshot(id, name, opts = {}) {
      const guest = here(id)
      return act('snapshot', guest, opts, () => {
        const disk = diskOf(guest, name)
        if (disk.kind === 'volume') throw conflict(`Disk ${name} is a volume: its storage makes its snapshots.`)
        const virtualSize = Math.max(1 << 20, 'sizeGb' in disk ? disk.sizeGb * 2 ** 30 : 1 << 20)
        const format = opts.format ?? 'qcow2'
        const qcow2 = qcow2Empty(virtualSize)
        const stream = format === 'qcow2' ? once(qcow2) : zeros(virtualSize)
        return {
          format,
          size: format === 'qcow2' ? qcow2.length : virtualSize,
          virtualSize,
          stream,
          close: async () => undefined,
        }
      })
    },
    async memoryOut(id) {
      mustBe(here(id), 'suspended')
      const bytes = Buffer.from(`memory of ${id}`)
      return { size: bytes.length, stream: once(bytes) }
    },
    async rescue(id, rescue, opts = {}) {
      const guest = here(id)
      return act('rescue', guest, opts, () => {
        if (guest.power === 'suspended') throw conflict(`Guest ${id} is suspended.`)
        guest.spec = { ...guest.spec, power: 'running', rescue }
        boot(guest)
        settle(world, guest, 'running')
        return view(guest)
      })
    },
    async unrescue(id, opts = {}) {
      const guest = here(id)
      return act('rescue', guest, opts, () => {
        const { rescue, ...spec } = guest.spec
        if (rescue) {
          guest.spec = { ...spec, power: 'running' }
          boot(guest)
          settle(world, guest, 'running')
        }
        return view(guest)
      })
    },
    setPassword: (id, _user, _password, opts = {}) => agent(id, opts, () => undefined),
    quiesce: (id, opts = {}) =>
      agent(id, opts, guest => {
        guest.frozen = true
      }),
    unquiesce: (id, opts = {}) =>
      agent(id, opts, guest => {
        guest.frozen = false
      }),
    async diagnostics(id) {
      const guest = here(id)
      mustBe(guest, 'running', 'paused')
      return {
        state: guest.power === 'paused' ? 'paused' : 'running',
        driver: 'libvirt',
        hypervisor: 'fake',
        hypervisorOs: 'linux',
        uptimeSeconds: Math.floor((Date.now() - guest.startedAt) / 1000),
        configDrive: guest.spec.configDrive !== undefined,
        cpus: Array.from({ length: guest.spec.vcpus }, (_, n) => ({ id: n, timeNs: 0, utilisation: null })),
        memory: { maximumMb: guest.spec.memoryMb, usedMb: guest.spec.memoryMb },
        disks: guest.spec.disks.map(() => ({ readBytes: 0, readRequests: 0, writeBytes: 0, writeRequests: 0, errorsCount: 0 })),
        nics: guest.spec.nics.map(nic => ({ mac: nic.mac, ...NO_TRAFFIC })),
      }
    },
    async injectNmi(id) {
      mustBe(here(id), 'running')
    },
    async console(id, kind): Promise<Duplex> {
      const guest = here(id)
      mustBe(guest, 'running', 'paused')
      if (kind === 'vnc' && guest.spec.video === 'none')
        throw conflict(`Guest ${id} has no graphical console.`, { type: 'ConsoleTypeUnavailable' })
      return kind === 'vnc' ? pretendedScreen(guest.spec.name) : pretendedSerial()
    },
    async cacheImage(image) {
      images.add(image.id)
    },
    async ageImages() {
      const used = new Set(
        [...world.guests.values()].flatMap(g => g.spec.disks.flatMap(d => (d.kind === 'image' ? [d.image.id] : []))),
      )
      const old = [...images].filter(id => !used.has(id))
      for (const id of old) images.delete(id)
      return old.length
    },
    things: async () => [...world.guests.keys()].map(id => ({ kind: 'guest', name: id, guest: id, wanted: true })),
    async wipe() {
      for (const guest of world.guests.values()) interrupt(guest, unavailable('The host is wiped.'))
      world.guests.clear()
      images.clear()
    },
  }
}

const NO_TRAFFIC = {
  rxOctets: 0,
  rxPackets: 0,
  rxDrop: 0,
  rxErrors: 0,
  rxRate: null,
  txOctets: 0,
  txPackets: 0,
  txDrop: 0,
  txErrors: 0,
  txRate: null,
} as const

/** A verb's time; ends early, with the signal's reason, when it is interrupted. */
function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', stop)
      resolve()
    }, ms)
    const stop = () => {
      clearTimeout(timer)
      reject(signal.reason)
    }
    signal.addEventListener('abort', stop, { once: true })
  })
}

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes
}

async function* zeros(bytes: number): AsyncGenerator<Uint8Array> {
  const block = Buffer.alloc(1 << 20)
  for (let left = bytes; left > 0; left -= block.length) yield block.subarray(0, Math.min(left, block.length))
}
