/**
 * Where an instance of Nubo keeps what, below its data folder. Three kinds of owner: root (or whoever runs `nubo up`) for what the host agent
 * needs, the unprivileged user of the controllers for theirs, and the same for PostgreSQL's.
 */
import { chmodSync, chownSync, existsSync, mkdirSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

export interface Layout {
  data: string
  /** Settings: nubo.yaml; policy.yaml and policy.d/ beside it. */
  config: string
  /** Credentials for clients: clouds `nubo` and `demo`. */
  clouds: string
  /** Process id, address and log of the instance. */
  state: string
  log: string
  /** PostgreSQL's own folder. */
  postgres: string
  /** What only controllers read and write: images, token keys. */
  controller: string
  /** The agent's socket, made by the controller. */
  socket: string
  /** What only the host agent reads and writes: guests, its journal, its secret. */
  agent: string
  /** The cloud's own certificate authority, where it serves TLS. */
  ca: string
  /** Says that Nubo made this folder. */
  mark: string
}

/** The layout below a data folder. Pure. */
export function layoutOf(data: string): Layout {
  return {
    data,
    config: join(data, 'nubo.yaml'),
    clouds: join(data, 'clouds.yaml'),
    state: join(data, 'state.json'),
    log: join(data, 'nubo.log'),
    postgres: join(data, 'postgres'),
    controller: join(data, 'controller'),
    socket: join(data, 'controller', 'agent.sock'),
    agent: join(data, 'agent'),
    ca: join(data, 'ca.pem'),
    mark: join(data, '.nubo'),
  }
}

/** Everything that Nubo makes in a data folder: nothing else in it is ever removed. Settings and certificates of the operator are not ours. */
export const layoutOwn = (layout: Layout): string[] => [
  layout.clouds,
  layout.state,
  layout.log,
  layout.postgres,
  layout.controller,
  layout.agent,
  layout.ca,
  join(layout.data, 'guest'),
  join(layout.data, 'lock'),
  layout.mark,
]

const MARK = "This folder was made by Nubo. 'nubo destroy' removes what is in it.\n"

/** Makes the data folder, if it is missing, and marks it. Throws the system's error. */
export function dataEnsure(layout: Layout): void {
  folderEnsure(layout.data)
  if (!existsSync(layout.mark)) writeFileSync(layout.mark, MARK)
}

/** The user that controllers and PostgreSQL run as: itself where the caller is not root. */
export interface Owner {
  uid: number
  gid: number
}

/** Makes a folder and those above it. Throws the system's error. (mkdir's own `recursive` never ends where a file system refuses new names.) */
function folderEnsure(folder: string): void {
  if (existsSync(folder)) return
  if (dirname(folder) !== folder) folderEnsure(dirname(folder))
  try {
    mkdirSync(folder)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
  }
}

/** Makes the folders that are missing, each with the owner and the permissions it needs. Throws when the owner could not get there. */
export function layoutMake(layout: Layout, owner: Owner | undefined): void {
  folderEnsure(layout.data)
  if (owner) {
    chmodSync(layout.data, 0o755)
    checkWay(layout.data)
  }
  layoutAgent(layout)
  for (const folder of [layout.controller, layout.postgres]) {
    if (!existsSync(folder)) mkdirSync(folder, { mode: 0o700 })
    if (owner) chownSync(folder, owner.uid, owner.gid)
    chmodSync(folder, 0o700)
  }
}

/** A folder that holds objects: made when it is missing, and the controllers' own. Throws when they could not get there. */
export function deviceEnsure(folder: string, owner: Owner | undefined): void {
  folderEnsure(folder)
  if (!owner) return
  checkWay(dirname(folder))
  chownSync(folder, owner.uid, owner.gid)
}

/** Makes the folder of the host agent alone, and those above it. */
export function layoutAgent(layout: Layout): void {
  folderEnsure(layout.data)
  if (!existsSync(layout.agent)) mkdirSync(layout.agent, { mode: 0o711 })
}

/** Every folder on the way must let others through: PostgreSQL and controllers are not root. */
function checkWay(folder: string): void {
  for (let at = folder; at !== dirname(at); at = dirname(at)) {
    if (statSync(at).mode & 0o001) continue
    throw new Error(
      `${at} lets nobody but its owner in, so the user nubo cannot reach ${folder}: chmod o+x ${at}, or choose another --data`,
    )
  }
}
