/**
 * What nova's controllers and its agents ask each other over the agent link: names and types, no code of either side.
 *
 * Level first: an agent asks `desired` with the revisions it knows when it connects, when it is poked and on a timer, makes what it is told
 * so, and says what it sees by `report`. The verbs below are the quick way for a saga that waits for the result; a saga and the level pull
 * may meet on one guest, since all of it is idempotent and an older revision never undoes a newer one.
 */
import { notice, verb } from '#kit/link/index.ts'
import type { Diagnostics, Disk, Guest, GuestSpec, HostInventory, HostThing, ImageRef, Nic, Power, Rescue } from './spec.ts'

export type * from './spec.ts'

interface Id {
  id: string
}

/* Controller → host. Deadlines are generous where an image may have to be fetched; a saga says its own where it knows better. */

/** Make the guest as the spec says, fetching its image if needed. */
export const ensure = verb<GuestSpec, Guest>('nova.ensure', { deadline: 600, idempotent: true })
/** Nothing of it is left on the host. */
export const destroy = verb<Id, Record<string, never>>('nova.destroy', { deadline: 120, idempotent: true })
export const inspect = verb<Id, { guest: Guest | null }>('nova.inspect', { deadline: 20, idempotent: true })
export const list = verb<Record<string, never>, { guests: Guest[] }>('nova.list', { deadline: 30, idempotent: true })
/** start, stop, pause, unpause, suspend, resume. `timeout`: seconds for an orderly stop. `revision`: of the row that wants it. */
export const power = verb<Id & { to: Power; timeout?: number; revision?: number }, Guest>('nova.power', {
  deadline: 300,
  idempotent: true,
})
/** Give it a key: a reboot asked twice is two reboots. */
export const reboot = verb<Id & { kind: 'soft' | 'hard'; timeout?: number }, Guest>('nova.reboot', { deadline: 300 })
export const consoleOutput = verb<Id & { lines?: number }, { output: string }>('nova.console-output', {
  deadline: 20,
  idempotent: true,
})
/** The call's body is what the client sends, the answer's bytes are what the guest's console sends; ends when either does. */
export const consoleOpen = verb<Id & { kind: 'vnc' | 'serial' }, Record<string, never>>('nova.console-open', { deadline: 86_400 })

export const attachNic = verb<Id & { nic: Nic }, Guest>('nova.attach-nic', { deadline: 60, idempotent: true })
export const detachNic = verb<Id & { portId: string }, Guest>('nova.detach-nic', { deadline: 60, idempotent: true })
export const attachDisk = verb<Id & { disk: Disk }, Guest>('nova.attach-disk', { deadline: 120, idempotent: true })
export const detachDisk = verb<Id & { name: string }, Guest>('nova.detach-disk', { deadline: 120, idempotent: true })
export const resizeDisk = verb<Id & { name: string; bytes: number }, Record<string, never>>('nova.resize-disk', {
  deadline: 60,
  idempotent: true,
})

/** What a snapshot's bytes are; the bytes follow as the answer's stream. */
export interface SnapshotInfo {
  format: 'qcow2' | 'raw'
  size: number
  virtualSize: number
}
export const snapshot = verb<Id & { disk: string; format?: 'qcow2' | 'raw'; quiesce?: boolean }, SnapshotInfo>('nova.snapshot', {
  deadline: 3600,
})
/** The memory of a suspended guest, for the host that it moves to. Only such a host can read it. */
export const memoryOut = verb<Id, { size: number }>('nova.memory-out', { deadline: 3600 })
export const rescue = verb<Id & { rescue: Rescue }, Guest>('nova.rescue', { deadline: 600, idempotent: true })
export const unrescue = verb<Id, Guest>('nova.unrescue', { deadline: 300, idempotent: true })
export const setPassword = verb<Id & { user: string; password: string }, Record<string, never>>('nova.set-password', {
  deadline: 30,
  idempotent: true,
})
export const diagnostics = verb<Id, Diagnostics>('nova.diagnostics', { deadline: 20, idempotent: true })
export const injectNmi = verb<Id, Record<string, never>>('nova.inject-nmi', { deadline: 20 })
export const quiesce = verb<Id, Record<string, never>>('nova.quiesce', { deadline: 60, idempotent: true })
export const unquiesce = verb<Id, Record<string, never>>('nova.unquiesce', { deadline: 60, idempotent: true })
export const cacheImage = verb<{ image: ImageRef }, Record<string, never>>('nova.cache-image', {
  deadline: 3600,
  idempotent: true,
})
export const hostInventory = verb<Record<string, never>, HostInventory>('nova.host-inventory', { deadline: 30, idempotent: true })

/** Everything of nova's on the host, and the guest that it belongs to, for `nubo audit`. */
export const inventory = verb<Record<string, never>, HostThing[]>('nova.inventory', { deadline: 60, idempotent: true })

/** Controller → host, no answer: "ask `desired` again". */
export const poke = notice<{ id?: string }>('nova.poke')

/* Host → controller. The host is the one the link proved, never an argument. */

/** What the agent has: guest → revision of the spec it keeps. */
export interface DesiredArgs {
  known: Record<string, number>
  /** Only this guest, after a poke that named it. */
  only?: string
}
export interface Desired {
  /** Specs of this host's guests that are newer than `known`, or missing there. Guests that a running saga works on are left out. */
  ensure: GuestSpec[]
  /** Known guests that are certainly not this host's any more: the agent destroys them. A guest in neither list is left alone. */
  destroy: string[]
}
export const desired = verb<DesiredArgs, Desired>('nova.desired', { deadline: 30, idempotent: true })

/**
 * What the agent sees. `full`: `guests` is all there is (so one that the controller does not know is an orphan, which the agent destroys only
 * when `desired` confirms it); else only what changed. A guest with `destroying` is gone, or about to be.
 */
export interface Report {
  full: boolean
  guests: Guest[]
  inventory?: HostInventory
}
export const report = verb<Report, Record<string, never>>('nova.report', { deadline: 30, idempotent: true })

/** The bytes of an image: the answer's stream. The controller checks that a guest of the asking host uses it. */
export const imageOpen = verb<{ imageId: string }, { size: number | null }>('nova.image-open', { deadline: 3600 })

/** What the metadata service says of a server on the asking host. `files`: the OpenStack tree, path → base64. `ec2`: nested names with text leaves. */
export interface ServerMetadata {
  files: Record<string, string>
  ec2: Record<string, unknown>
  /** Base64; null: none. */
  userData: string | null
}
export const serverMetadata = verb<Id, ServerMetadata>('nova.server-metadata', { deadline: 10, idempotent: true })
