/** What a machine keeps of the cloud that it joined: its name there, its secret, where the controllers are, whom to trust. Only root reads it. */
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Joined } from '#kit/link/index.ts'
import { type Layout, layoutAgent } from './layout.ts'

export interface JoinedHost extends Joined {
  /** The address that it joined by. */
  url: string
  /** A pretended host. */
  simulated: boolean
}

const fileOf = (layout: Layout): string => join(layout.agent, 'host.json')

/** What this machine is in which cloud; undefined when it has joined none. Throws when the file cannot be read. */
export function joinedRead(layout: Layout): JoinedHost | undefined {
  const file = fileOf(layout)
  if (!existsSync(file)) return undefined
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as JoinedHost
  } catch (error) {
    throw new Error(`${file} cannot be read; remove it and join again with a token for this host (nubo token --host NAME)`, {
      cause: error,
    })
  }
}

export function joinedWrite(layout: Layout, joined: JoinedHost): void {
  layoutAgent(layout)
  writeFileSync(`${fileOf(layout)}.new`, `${JSON.stringify(joined, null, 2)}\n`, { mode: 0o600 })
  renameSync(`${fileOf(layout)}.new`, fileOf(layout))
}

/** The address that this machine uses towards another; null when there is no way. Sends nothing. */
export async function addressTowards(host: string): Promise<string | null> {
  const bare = host.replace(/^\[|\]$/g, '')
  const socket = createSocket(bare.includes(':') ? 'udp6' : 'udp4')
  try {
    const connected = once(socket, 'connect')
    socket.connect(9, bare)
    await connected
    return socket.address().address
  } catch {
    // No route, or no such name: what needs the address says so itself.
    return null
  } finally {
    socket.close()
  }
}
