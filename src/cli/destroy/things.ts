/** What an instance has on this machine, and its removal. Only what is ours by its name, its user or its place is ever touched. */
import { existsSync, readdirSync, readFileSync, rmdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { type Config, loadConfig } from '#kit/config.ts'
import { openLog } from '#kit/log.ts'
import { qemuWipe } from '#services/nova/agent/drivers/qemu/index.ts'
import { networkOf } from '../../roles/host.ts'
import { machineForget, machineOwner } from '../../roles/machine.ts'
import { SETTINGS } from '../../roles/settings.ts'
import { type Layout, layoutOwn } from '../instance/layout.ts'

/** Something to remove, as it is told: `netns qdhcp-…`. */
export interface Thing {
  kind: string
  name: string
}

export interface Found {
  things: Thing[]
  /** What stays, and why, a sentence each. */
  left: string[]
  /** Guests on this machine. */
  guests: number
  /** Whether the networks of this machine are this instance's. */
  networks: boolean
}

const isRoot = (): boolean => process.getuid?.() === 0
const configOf = (layout: Layout): Config => loadConfig(layout.config, SETTINGS)
const netOf = (layout: Layout) => networkOf(configOf(layout), openLog({ level: 'error', readable: true }))

/** Looks, and changes nothing. Throws ConfigError when the settings, which name the bridges, cannot be read. */
export async function look(layout: Layout): Promise<Found> {
  const folder = join(layout.agent, 'nova', 'guests')
  const guests = existsSync(folder) ? readdirSync(folder).filter(name => !name.startsWith('.')) : []
  const things: Thing[] = guests.map(id => ({ kind: 'guest', name: id }))
  const owner = isRoot() ? machineOwner() : undefined
  // Where /run was emptied, a folder of guests says that this machine was a host.
  const networks = isRoot() && (owner === undefined ? existsSync(join(layout.agent, 'nova')) : owner === layout.agent)
  if (networks) {
    const net = netOf(layout)
    for (const { kind, name } of await net.inventory()) things.push({ kind, name })
    await net.close()
  }
  for (const path of layoutOwn(layout)) if (existsSync(path)) things.push({ kind: 'path', name: path })
  const left = leftOf(layout)
  if (owner !== undefined && !networks)
    left.push(`the networks of this machine: they belong to the Nubo whose agent's files are in ${owner}`)
  return { things, left, guests: guests.length, networks }
}

/** Removes it all; the instance must not run. Whatever is gone already is fine. Gives what was found on the way and not announced: its processes. */
export async function removeAll(layout: Layout, networks: boolean): Promise<Thing[]> {
  const more: Thing[] = []
  if (isRoot() && existsSync(layout.agent)) {
    for (const { kind, name } of await qemuWipe({ dataDir: join(layout.agent, 'nova') })) more.push({ kind, name })
  }
  if (networks) {
    const net = netOf(layout)
    await net.destroy()
    await net.close()
    rmSync('/run/nubo/net', { recursive: true, force: true })
    machineForget(layout.agent)
    dropEmpty('/run/nubo')
  }
  for (const path of layoutOwn(layout)) rmSync(path, { recursive: true, force: true })
  dropEmpty(layout.data)
  return more
}

function dropEmpty(folder: string): void {
  if (existsSync(folder) && readdirSync(folder).length === 0) rmdirSync(folder)
}

function leftOf(layout: Layout): string[] {
  const left: string[] = []
  if (existsSync(layout.data)) {
    const own = new Set(layoutOwn(layout))
    const others = readdirSync(layout.data).map(name => join(layout.data, name))
    for (const path of others) if (!own.has(path)) left.push(`${path}: not made by Nubo`)
  }
  if (isRoot() && /^nubo:/m.test(readFileSync('/etc/passwd', 'utf8')))
    left.push('the system user nubo and the Debian packages: other instances may use them (userdel nubo)')
  return left
}
