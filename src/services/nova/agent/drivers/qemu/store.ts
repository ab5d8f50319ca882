// What the driver keeps of each guest on disk, so that any agent started later knows what a dead one knew.
//
//   DATA/guests/ID/        root's, others may pass but not list: a guest that breaks out of QEMU cannot forge what root will read
//     guest.json           the spec, the user, PCI places, last seen power; written whole and renamed
//     lock, pid, qemu.log  of the process (see host/qemu/process.ts)
//     root.qcow2, …        disks, owned by the guest's user
//     console.log(.1)      what the first serial port said
//     memory.saved         while suspended
//   RUN/ID/                sockets; the guest user's own, since QEMU makes them there. Gone after a reboot, as the processes are.
//
// A guest begins to exist when its folder gets its name (made aside, renamed), and ends when it loses it.
import { randomBytes } from 'node:crypto'
import { chown, mkdir, open, readdir, readFile, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Sockets } from '#host/qemu/argv.ts'
import { unavailable } from '#kit/fault.ts'
import type { GuestPower, GuestSpec } from '../../../spec.ts'
import { idCheck } from '../../check.ts'

export interface GuestRecord {
  spec: GuestSpec
  /** The guest's own user and group. */
  uid: number
  /** The versioned machine type it was first started with, for life: a newer QEMU must not change the guest's hardware. */
  machine?: string
  /** PCI places of its devices, for life. */
  slots: Record<string, number>
  /** How many PCIe root ports the machine was started with. */
  ports?: number
  /** As last seen, and since when (ISO 8601). */
  power: GuestPower
  since: string
  reason?: string
  /** A destroy has begun: only it goes on from here. */
  destroying?: boolean
  /** Memory is in memory.saved, complete. */
  saved?: boolean
  /** Its file systems were frozen by us and not yet thawed. */
  frozen?: boolean
  /** When its process was last started, ISO 8601: a guest that dies at once again is not started for ever. */
  started?: string
}

export interface Paths {
  folder: string
  record: string
  lock: string
  pid: string
  log: string
  console: string
  consoleOld: string
  saved: string
  vars: string
  run: string
  sockets: Sockets
  migration: string
}

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/

export interface Store {
  paths(id: string): Paths
  /** Ids of all guests on disk; leftovers of interrupted creations and destroys are cleared away. */
  scan(): Promise<string[]>
  /** All that is in the folders of guests and of their sockets, as paths. */
  folders(): Promise<string[]>
  read(id: string): Promise<GuestRecord | undefined>
  write(record: GuestRecord): Promise<void>
  /** Makes the guest's folder with its first record, with a user that no other guest has. */
  create(spec: GuestSpec): Promise<GuestRecord>
  /** The sockets' folder, the guest user's own. */
  runFolder(record: GuestRecord): Promise<void>
  remove(id: string): Promise<void>
  /** Removes the folders of all guests. */
  wipe(): Promise<void>
}

/** `uids`: the range of numeric users, [first, count]; nobody else's on this host. */
export function guestStore(options: { folder: string; runFolder: string; uids: [first: number, count: number] }): Store {
  const { folder, runFolder, uids } = options
  const usedUids = new Set<number>()
  const byId = new Map<string, number>()

  function paths(id: string): Paths {
    idCheck(id)
    const own = join(folder, id)
    const run = join(runFolder, id)
    const at = (name: string) => join(own, name)
    return {
      folder: own,
      record: at('guest.json'),
      lock: at('lock'),
      pid: at('pid'),
      log: at('qemu.log'),
      console: at('console.log'),
      consoleOld: at('console.log.1'),
      saved: at('memory.saved'),
      vars: at('vars.fd'),
      run,
      sockets: { qmp: join(run, 'qmp'), vnc: join(run, 'vnc'), serial: join(run, 'serial'), agent: join(run, 'agent') },
      migration: join(run, 'migration'),
    }
  }

  const remember = (record: GuestRecord) => {
    usedUids.add(record.uid)
    byId.set(record.spec.id, record.uid)
  }

  async function read(id: string): Promise<GuestRecord | undefined> {
    const text = await readFile(paths(id).record, 'utf8').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return undefined
      throw error
    })
    if (text === undefined) return undefined
    const record = JSON.parse(text) as GuestRecord
    remember(record)
    return record
  }

  function freeUid(): number {
    const [first, count] = uids
    for (let uid = first; uid < first + count; uid++) if (!usedUids.has(uid)) return uid
    throw unavailable(`All ${count} guest users of this host are in use.`)
  }

  return {
    paths,
    read,
    async scan() {
      await mkdir(folder, { recursive: true, mode: 0o711 })
      await mkdir(runFolder, { recursive: true, mode: 0o711 })
      const ids: string[] = []
      for (const name of await readdir(folder)) {
        if (UUID.test(name)) ids.push(name)
        else if (/^\.(new|gone)-/.test(name)) await rm(join(folder, name), { recursive: true, force: true })
      }
      return ids
    },
    async folders() {
      const within = async (path: string) =>
        (
          await readdir(path).catch((error: NodeJS.ErrnoException) => {
            if (error.code === 'ENOENT') return []
            throw error
          })
        ).map(name => join(path, name))
      return [...(await within(folder)), ...(await within(runFolder))]
    },
    async wipe() {
      await rm(folder, { recursive: true, force: true })
      await rm(runFolder, { recursive: true, force: true })
    },
    write: record => writeWhole(paths(record.spec.id).record, JSON.stringify(record, null, 1)),
    async create(spec) {
      const record: GuestRecord = { spec, uid: freeUid(), slots: {}, power: 'off', since: new Date().toISOString() }
      remember(record)
      const aside = join(folder, `.new-${spec.id}-${randomBytes(4).toString('hex')}`)
      await mkdir(aside, { mode: 0o711 })
      await writeWhole(join(aside, 'guest.json'), JSON.stringify(record, null, 1))
      await rename(aside, paths(spec.id).folder)
      await syncFolder(folder)
      return record
    },
    async runFolder(record) {
      const { run } = paths(record.spec.id)
      await mkdir(run, { recursive: true, mode: 0o700 })
      await chown(run, record.uid, record.uid)
    },
    async remove(id) {
      const own = paths(id)
      await rm(own.run, { recursive: true, force: true })
      const aside = join(folder, `.gone-${id}`)
      await rm(aside, { recursive: true, force: true })
      await rename(own.folder, aside).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== 'ENOENT') throw error
      })
      await syncFolder(folder)
      await rm(aside, { recursive: true, force: true })
      const uid = byId.get(id)
      if (uid !== undefined) usedUids.delete(uid)
      byId.delete(id)
    },
  }
}

/** Writes a file so that at any instant the old or the new content is there, whole, also after a power loss. */
export async function writeWhole(path: string, text: string, mode = 0o600): Promise<void> {
  const aside = `${path}.new`
  const file = await open(aside, 'w', mode)
  try {
    await file.writeFile(text)
    await file.datasync()
  } finally {
    await file.close()
  }
  await rename(aside, path)
}

/** Makes renames and creations in a folder survive a power loss. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}
