// A host for tests: a data folder of its own, images out of memory, and a look at what is left behind.
import { chmod, mkdtemp, readdir, readlink, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { cgroupsFind, groupNames, groupRemove } from '#host/cgroup/index.ts'
import { HOST_PROGRAMS, programPath } from '#host/programs.ts'
import { tapList } from '#host/qemu/tap.ts'
import type { LinkLog } from '#kit/link/index.ts'
import type { ImageRef } from '../../../spec.ts'
import type { Place } from '../../driver.contract.ts'
import { testGuestDisk, testGuestImage } from '../../testguest.ts'
import { scopeOf, uidRange } from './host.ts'
import { qemuDriver } from './index.ts'

export const quiet: LinkLog = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
  child: () => quiet,
}

/** Why this machine cannot run the tests, or undefined. */
export function unable(): string | undefined {
  if (process.getuid?.() !== 0) return 'needs root'
  const missing = HOST_PROGRAMS.filter(row => row.purpose === 'host' && !programPath(row.program))
  if (missing.length > 0) return `needs packages ${[...new Set(missing.map(row => row.package))].join(' ')}`
  return undefined
}

/** A host for one test: a data folder, and images that come from memory. */
export async function qemuPlace(): Promise<Place & { dataDir: string; images: Map<string, Buffer> }> {
  const dataDir = await mkdtemp(join(tmpdir(), 'nubo-qemu-'))
  // Guests' users must pass through; mkdtemp lets only its owner.
  await chmod(dataDir, 0o711)
  const scope = scopeOf(dataDir)
  const images = new Map<string, Buffer>()
  const stalled = new Map<string, Promise<void>>()
  const image = (id: string, disk: Buffer): ImageRef => {
    images.set(id, disk)
    return testGuestImage(id, disk)
  }
  const source = async ({ id }: ImageRef) =>
    (async function* () {
      await stalled.get(id)
      const bytes = images.get(id)
      if (!bytes) throw new Error(`no image ${id}`)
      for (let at = 0; at < bytes.length; at += 100_000) yield bytes.subarray(at, at + 100_000)
    })()
  return {
    dataDir,
    images,
    driver: () => qemuDriver({ dataDir, images: source, log: quiet, accel: 'tcg' }),
    image: image('tiny', testGuestDisk()),
    async shutItself(driver, id) {
      const port = await driver.console(id, 'serial')
      port.end('p')
    },
    async residue() {
      const [first, count] = uidRange(scope)
      const taps = (await tapList()).filter(tap => tap.uid !== undefined && tap.uid >= first && tap.uid < first + count)
      const groups = await groupNames(await cgroupsFind(), `nubo-${scope}`)
      const processes: string[] = []
      for (const pid of await readdir('/proc')) {
        if (!/^\d+$/.test(pid)) continue
        const cwd = await readlink(`/proc/${pid}/cwd`).catch(() => '')
        if (cwd.startsWith(dataDir)) processes.push(`process ${pid} in ${cwd}`)
      }
      const names = (path: string) => readdir(path).catch(() => [])
      const files = [...(await names(join(dataDir, 'guests'))), ...(await names(`/run/nubo-${scope}/guests`))]
      return [
        ...taps.map(tap => `tap ${tap.name}`),
        ...groups.map(g => `group ${g}`),
        ...processes,
        ...files.map(f => `file ${f}`),
      ]
    },
    stall() {
      const id = `stalled-${stalled.size}`
      const { promise, resolve } = Promise.withResolvers<void>()
      stalled.set(id, promise)
      return { image: image(id, testGuestDisk(id)), release: resolve }
    },
    async close() {
      await groupRemove(await cgroupsFind(), `nubo-${scope}`)
      await rm(dataDir, { recursive: true, force: true })
      await rm(`/run/nubo-${scope}`, { recursive: true, force: true })
    },
  }
}
