/** Host agents: of this machine, or pretended ones inside a controller's process. */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { type AgentLink, dial, memoryWay, unixWay } from '#kit/link/index.ts'
import type { Log } from '#kit/log.ts'
import type { ComputeDriver } from '#services/nova/agent/driver.ts'
import { memoryDriver, memoryWorld } from '#services/nova/agent/drivers/memory/index.ts'
import { qemuDriver } from '#services/nova/agent/drivers/qemu/index.ts'
import { linkImages, novaAgent } from '#services/nova/agent/link.ts'
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

type Closer = () => Promise<void>

/** Starts this machine's agent. Returns what stops it; guests and networks run on. */
export async function startHost(options: HostOptions): Promise<Closer> {
  const { name, folder, log } = options
  const link = dial({ host: name, ways: [unixWay(options.socket, { host: name, secret: options.secret })], log })
  const nova = join(folder, 'nova')
  mkdirSync(nova, { recursive: true, mode: 0o711 })
  const driver = qemuDriver({ dataDir: nova, hostname: name, images: linkImages(link), log })
  return started(link, [await compute(link, driver, log)])
}

/** Starts pretended hosts, whose agents have memory in place of machines. */
export async function startSimulatedHosts(controller: Controller, names: readonly string[], log: Log): Promise<Closer> {
  const closers = await Promise.all(
    names.map(async host => {
      const link = dial({ host, ways: [memoryWay(controller.hosts, host)], log })
      const driver = memoryDriver({ world: memoryWorld(), hostname: host })
      return started(link, [await compute(link, driver, log)])
    }),
  )
  return async () => {
    await Promise.all(closers.map(close => close()))
  }
}

async function compute(link: AgentLink, driver: ComputeDriver, log: Log): Promise<Closer> {
  await driver.open()
  const agent = novaAgent({ link, driver, log })
  return async () => {
    await agent.close()
    await driver.close()
  }
}

const started =
  (link: AgentLink, parts: readonly Closer[]): Closer =>
  async () => {
    for (const close of parts) await close()
    await link.close()
  }
