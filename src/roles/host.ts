/** Host agents: of this machine, or pretended ones inside a controller's process. */
import { dial, memoryWay, unixWay } from '#kit/link/index.ts'
import type { Log } from '#kit/log.ts'
import type { Controller } from './controller.ts'

export interface HostOptions {
  name: string
  socket: string
  secret: string
  /** Folder of the agent's own files: guests, journal. */
  folder: string
  configFile: string
  log: Log
}

/** Starts this machine's agent. Returns what stops it; guests and networks run on. */
export async function startHost(options: HostOptions): Promise<() => Promise<void>> {
  const link = dial({
    host: options.name,
    ways: [unixWay(options.socket, { host: options.name, secret: options.secret })],
    log: options.log,
  })
  return () => link.close()
}

/** Starts pretended hosts, whose agents have memory in place of machines. */
export async function startSimulatedHosts(
  controller: Controller,
  names: readonly string[],
  log: Log,
): Promise<() => Promise<void>> {
  const links = names.map(host => dial({ host, ways: [memoryWay(controller.hosts, host)], log }))
  return async () => {
    await Promise.all(links.map(link => link.close()))
  }
}
