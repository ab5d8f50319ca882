/**
 * nova's agent on a host: serves its verbs over the link, keeps the host as the controller wants it, and says what it sees.
 *
 * Three ways lead to the same state. A saga calls a verb and waits. A poke, a new connection or the timer makes the agent ask `desired` with
 * the revisions it keeps, and make the newer specs so. And what happens by itself on the host (a guest shuts itself down, its qemu dies) is
 * reported at once; when no controller is there to hear it, the full report at the next connection says it.
 */
import { reason } from '#kit/fault.ts'
import { type AgentLink, hear, type LinkLog, type Served, serve, streamed } from '#kit/link/index.ts'
import type { Guest, GuestSpec } from '../spec.ts'
import * as verbs from '../verbs.ts'
import type { ComputeDriver, ImageSource, SnapshotStream } from './driver.ts'

/** Images for a driver: Glance's bytes, through any controller. */
export function linkImages(link: Pick<AgentLink, 'askStream'>): ImageSource {
  return async (image, { signal }) => (await link.askStream(verbs.imageOpen, { imageId: image.id }, { signal })).body
}

export interface NovaAgent {
  /** Asks the controller now and makes it so; resolves when that is done. Errors are the guests' own and are reported, not thrown. */
  sync(only?: string): Promise<void>
  /** Resolves once a controller has heard what the host has and what is on it. */
  readonly reported: Promise<void>
  /** Stops asking and reporting. Guests run on; the driver and the link are the caller's to close. */
  close(): Promise<void>
}

export interface NovaAgentOptions {
  link: AgentLink
  /** Open already. */
  driver: ComputeDriver
  log: LinkLog
  /** Seconds between looks without a cause; 60. */
  everySeconds?: number
  /** Unused base images are dropped after this many seconds; a day. 0 keeps them. */
  imageSeconds?: number
}

/** Changes within this time go in one report (milliseconds): a host that boots a hundred guests says so in a few messages. */
const REPORT_MS = 50
/** Guests that are brought up at a time when many are wanted, as after a reboot of the host. */
const AT_ONCE = 4

/** Puts a driver on the link. */
export function novaAgent(options: NovaAgentOptions): NovaAgent {
  const { link, driver, log } = options
  const changed = new Map<string, Guest>()
  const stopped = new AbortController()
  const { promise: reported, resolve: heard } = Promise.withResolvers<void>()
  let reporting: NodeJS.Timeout | undefined
  let syncing: Promise<void> | undefined
  let again = false

  async function tell(): Promise<void> {
    reporting = undefined
    const guests = [...changed.values()]
    changed.clear()
    try {
      await link.ask(verbs.report, { full: false, guests }, { signal: stopped.signal })
    } catch (error) {
      // Not lost: the full report at the next connection or look has it.
      if (!stopped.signal.aborted)
        log.warn({ error: reason(error), guests: guests.length }, 'nova: changes of guests could not be reported')
    }
  }

  const unwatch = driver.watch(guest => {
    changed.set(guest.id, guest)
    reporting ??= setTimeout(() => void tell(), REPORT_MS)
  })

  async function apply({ ensure, destroy }: verbs.Desired): Promise<void> {
    const work = [
      ...destroy.map(id => () => guarded('destroy', id, () => driver.destroy(id, { signal: stopped.signal }))),
      ...ensure.map((spec: GuestSpec) => () => guarded('ensure', spec.id, () => driver.ensure(spec, { signal: stopped.signal }))),
    ]
    await Promise.all(
      Array.from({ length: AT_ONCE }, async () => {
        for (let next = work.shift(); next && !stopped.signal.aborted; next = work.shift()) await next()
      }),
    )
  }

  /** One guest's failure is its own: it is in the guest's reason, which is reported, and the log. */
  async function guarded(what: string, id: string, fn: () => Promise<unknown>): Promise<void> {
    try {
      await fn()
    } catch (error) {
      if (!stopped.signal.aborted) log.warn({ guest: id, error: reason(error) }, `nova: ${what} as desired failed`)
    }
  }

  async function look(only?: string): Promise<void> {
    const guests = await driver.list()
    const known = Object.fromEntries(guests.filter(g => only === undefined || g.id === only).map(g => [g.id, g.revision]))
    await apply(await link.ask(verbs.desired, { known, ...(only !== undefined && { only }) }, { signal: stopped.signal }))
    if (only !== undefined) return
    const report = { full: true, guests: await driver.list(), inventory: await driver.inventory() }
    await link.ask(verbs.report, report, { signal: stopped.signal })
    heard()
  }

  /** Looks one after another; who asks while one runs gets the next, and a third one the same next. */
  function sync(): Promise<void> {
    if (syncing) {
      again = true
      return syncing
    }
    syncing = (async () => {
      do {
        again = false
        await attempt()
      } while (again && !stopped.signal.aborted)
    })().finally(() => {
      syncing = undefined
    })
    return syncing
  }
  async function attempt(only?: string): Promise<void> {
    try {
      await look(only)
    } catch (error) {
      if (!stopped.signal.aborted)
        log.warn({ error: reason(error) }, 'nova: the controller could not be asked; tried again later')
    }
  }

  link.serve(served(driver, (id?: string) => (id === undefined ? sync() : attempt(id))))
  const offConnect = link.onConnect(() => sync())
  const timer = setInterval(() => link.isConnected() && void sync(), (options.everySeconds ?? 60) * 1000)
  timer.unref()
  const imageSeconds = options.imageSeconds ?? 86_400
  const age = async () => {
    const dropped = await driver.ageImages(imageSeconds)
    if (dropped > 0) log.info({ dropped }, 'nova: unused base images removed')
  }
  const ager = setInterval(() => void age().catch(error => log.warn({ error: reason(error) }, 'nova: base images')), 3_600_000)
  ager.unref()
  if (imageSeconds === 0) clearInterval(ager)

  return {
    sync: only => (only === undefined ? sync() : attempt(only)),
    reported,
    async close() {
      stopped.abort(new Error('the agent stops'))
      clearInterval(timer)
      clearInterval(ager)
      clearTimeout(reporting)
      offConnect()
      unwatch()
      await syncing
    },
  }
}

const done = (): Record<string, never> => ({})

/** The verbs, bound to the driver. */
function served(driver: ComputeDriver, poked: (id?: string) => Promise<void>): Served<undefined>[] {
  return [
    serve(verbs.ensure, (spec, { signal }) => driver.ensure(spec, { signal })),
    serve(verbs.destroy, ({ id }, { signal }) => driver.destroy(id, { signal }).then(done)),
    serve(verbs.inspect, async ({ id }) => ({ guest: await driver.inspect(id) })),
    serve(verbs.list, async () => ({ guests: await driver.list() })),
    serve(verbs.power, ({ id, to, timeout, revision }, { signal }) => driver.power(id, to, { timeout, revision, signal })),
    serve(verbs.reboot, ({ id, kind, timeout }, { signal }) => driver.reboot(id, kind, { timeout, signal })),
    serve(verbs.consoleOutput, async ({ id, lines }) => ({ output: await driver.consoleOutput(id, lines) })),
    serve(verbs.consoleOpen, async ({ id, kind }, { body, signal }) => {
      const console = await driver.console(id, kind)
      signal.addEventListener('abort', () => console.destroy(), { once: true })
      // An error on either side ends both: the stream's end is what the far side sees.
      body.on('error', () => console.destroy())
      console.on('error', () => undefined)
      body.pipe(console)
      return streamed({}, console)
    }),
    serve(verbs.attachNic, ({ id, nic }, { signal }) => driver.attachNic(id, nic, { signal })),
    serve(verbs.detachNic, ({ id, portId }, { signal }) => driver.detachNic(id, portId, { signal })),
    serve(verbs.attachDisk, ({ id, disk }, { signal }) => driver.attachDisk(id, disk, { signal })),
    serve(verbs.detachDisk, ({ id, name }, { signal }) => driver.detachDisk(id, name, { signal })),
    serve(verbs.resizeDisk, ({ id, name, bytes }, { signal }) => driver.resizeDisk(id, name, bytes, { signal }).then(done)),
    serve(verbs.snapshot, async ({ id, disk, format, quiesce }, { signal }) => {
      const shot = await driver.snapshot(id, disk, { format, quiesce, signal })
      return streamed({ format: shot.format, size: shot.size, virtualSize: shot.virtualSize }, closing(shot))
    }),
    serve(verbs.memoryOut, async ({ id }) => {
      const { size, stream } = await driver.memoryOut(id)
      return streamed({ size }, stream)
    }),
    serve(verbs.rescue, ({ id, rescue }, { signal }) => driver.rescue(id, rescue, { signal })),
    serve(verbs.unrescue, ({ id }, { signal }) => driver.unrescue(id, { signal })),
    serve(verbs.setPassword, ({ id, user, password }, { signal }) =>
      driver.setPassword(id, user, password, { signal }).then(done),
    ),
    serve(verbs.diagnostics, ({ id }) => driver.diagnostics(id)),
    serve(verbs.injectNmi, ({ id }) => driver.injectNmi(id).then(done)),
    serve(verbs.quiesce, ({ id }, { signal }) => driver.quiesce(id, { signal }).then(done)),
    serve(verbs.unquiesce, ({ id }, { signal }) => driver.unquiesce(id, { signal }).then(done)),
    serve(verbs.cacheImage, ({ image }, { signal }) => driver.cacheImage(image, { signal }).then(done)),
    serve(verbs.inventory, () => driver.things()),
    serve(verbs.hostInventory, () => driver.inventory()),
    hear(verbs.poke, ({ id }) => poked(id)),
  ]
}

/** A snapshot's bytes; what it took on the host is freed however the reader ends. */
async function* closing(shot: SnapshotStream): AsyncGenerator<Uint8Array> {
  try {
    yield* shot.stream
  } finally {
    await shot.close()
  }
}
