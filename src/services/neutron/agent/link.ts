// The network agent of a host: asks the controller what should be here, has the driver make it so, says how it went.
//
// It asks when a controller connects, when poked, and on a slow, jittered timer. A poke tells of a change: its pass takes what the last one left
// to be there still. The timer's pass looks at the host, and now and then (and at the start of a process) at everything on it. Pokes that come
// while a pass runs are one next pass.
// Beside that, a guest's tap that appears is wired at once, from the state that was applied last, and reported alone: a boot waits for it.
import { Fault, reason } from '#kit/fault.ts'
import { type AgentLink, hear, type LinkLog, serve } from '#kit/link/index.ts'
import { netDesired, netHello, netInventory, netPoke, netReport } from '../verbs.ts'
import type { NetReport } from './desired.ts'
import type { Look, NetDriver } from './driver.ts'

export interface NetworkAgentOptions {
  link: AgentLink
  driver: NetDriver
  log: LinkLog
  /** Seconds between passes without a cause, give or take a fifth; 120. */
  everySeconds?: number
}

export interface NetworkAgent {
  /** Asks and applies now; resolves when it is done and reported. Errors are in the report and the log. */
  sync(): Promise<void>
  /** Resolves once a controller has heard what this host can do: then it is given work, which the first pass may still be doing. */
  readonly reported: Promise<void>
  /** Stops asking and reporting. The host stays as it is; driver and link are the caller's to close. */
  close(): Promise<void>
}

/** Taps that appear within this time are wired together (milliseconds). */
const GATHER_MS = 3
/** After a pass with errors the next comes sooner: this many milliseconds, then twice as many, up to the timer's own. */
const RETRY_MS = 2000
/** Of so many looks without a cause one takes nothing for granted: dozens of commands, which a host at rest should seldom run. */
const THOROUGH = 5
/** From little to all. */
const LOOKS: readonly Look[] = ['change', 'some', 'all']

/** Puts a driver on the link. Resolves when it watches for taps; the first pass runs when a controller is connected. */
export async function networkAgent({ link, driver, log, everySeconds = 120 }: NetworkAgentOptions): Promise<NetworkAgent> {
  const stopped = new AbortController()
  const { signal } = stopped
  const { promise: reported, resolve: heard } = Promise.withResolvers<void>()
  let revision: number | null = null
  let running: Promise<void> | undefined
  let again = false
  /** How much the next pass looks at. */
  let look: Look = 'all'
  let timer: NodeJS.Timeout | undefined
  let retryMs = RETRY_MS
  let looks = 0

  // One after another, in the order of what they saw: of two on their way at once, the older could be written last.
  let said: Promise<unknown> = Promise.resolve()
  const say = (report: NetReport): Promise<boolean> => {
    const mine = said.then(() => sayNow(report))
    said = mine
    return mine
  }
  const sayNow = async (report: NetReport): Promise<boolean> => {
    try {
      await link.ask(netReport, report, { signal })
      return true
    } catch (error) {
      if (!signal.aborted) log.warn({ error: reason(error) }, 'neutron: the report was not heard; the next pass reports again')
      return false
    }
  }
  const unable = (message: string): NetReport => ({
    revision: revision ?? 0,
    full: false,
    ports: [],
    routers: [],
    floatingIps: [],
    dhcp: [],
    errors: [{ kind: 'host', id: null, message }],
  })

  /** One pass; says whether all is well. */
  const pass = async (): Promise<boolean> => {
    const mine = look
    look = 'change'
    try {
      const desired = await link.ask(netDesired, { have: revision }, { signal })
      const began = performance.now()
      const report = await driver.apply(desired, { look: mine, signal })
      revision = desired.revision
      const ms = Math.round(performance.now() - began)
      log.debug({ revision, ms, ports: desired.ports.length, errors: report.errors.length, look: mine }, 'neutron: applied')
      for (const error of report.errors) log.warn({ ...error, revision }, 'neutron: not as desired')
      const heard = await say(report)
      const good = heard && report.errors.length === 0
      if (!good) atLeast('some')
      return good
    } catch (error) {
      if (signal.aborted) return true
      atLeast(mine === 'all' ? 'all' : 'some')
      if (isRefused(error)) {
        log.debug({}, 'neutron: this controller has no networking')
        return true
      }
      log.warn({ error: reason(error) }, 'neutron: the pass failed')
      if (link.isConnected()) await say(unable(reason(error)))
      return false
    }
  }
  const atLeast = (wanted: Look): void => {
    if (LOOKS.indexOf(wanted) > LOOKS.indexOf(look)) look = wanted
  }
  const sync = (wanted: Look = 'some'): Promise<void> => {
    atLeast(wanted)
    if (running) {
      again = true
      return running
    }
    running = (async () => {
      let good = true
      do {
        again = false
        good = await pass()
      } while (again && !signal.aborted)
      schedule(good)
    })().finally(() => {
      running = undefined
    })
    return running
  }
  const schedule = (good: boolean): void => {
    clearTimeout(timer)
    if (signal.aborted) return
    const slow = everySeconds * 1000 * (0.8 + Math.random() * 0.4)
    const wait = good ? slow : Math.min(retryMs, slow)
    retryMs = good ? RETRY_MS : retryMs * 2
    timer = setTimeout(() => {
      if (link.isConnected()) void sync(++looks % THOROUGH === 0 ? 'all' : 'some')
      else schedule(true)
    }, wait)
    timer.unref()
  }

  const taps = new Set<string>()
  let gathering: NodeJS.Timeout | undefined
  const wire = async (): Promise<void> => {
    gathering = undefined
    const now = [...taps]
    taps.clear()
    try {
      const ports = await driver.wire(now)
      if (ports.length > 0 && !signal.aborted) {
        await say({ revision: revision ?? 0, full: false, ports, routers: [], floatingIps: [], dhcp: [], errors: [] })
      }
      // Something that the last pass made is missing: the bridge, most likely.
      if (ports.some(port => port.status === 'DOWN')) void sync()
    } catch (error) {
      log.warn({ taps: now, error: reason(error) }, 'neutron: taps not wired; the next pass tries again')
      void sync()
    }
  }
  const unwatch = await driver.watch(tap => {
    taps.add(tap)
    gathering ??= setTimeout(() => void wire(), GATHER_MS)
  })

  // What a pass is about to make is not missing yet.
  const inventory = async () => {
    await running
    return driver.inventory()
  }
  link.serve([hear(netPoke, () => void sync('change')), serve(netInventory, inventory)])
  const hello = async (): Promise<boolean> => {
    try {
      await link.ask(netHello, await driver.probe(), { signal })
      return true
    } catch (error) {
      if (isRefused(error)) return true
      if (!signal.aborted) log.warn({ error: reason(error) }, 'neutron: the controller did not hear what this host can do')
      return false
    }
  }
  const offConnect = link.onConnect(async () => {
    if (await hello()) heard()
    await sync()
  })
  schedule(true)

  return {
    sync,
    reported,
    async close() {
      stopped.abort(new Error('the agent stops'))
      clearTimeout(timer)
      clearTimeout(gathering)
      offConnect()
      await unwatch()
      await running
    },
  }
}

/** The controller does not serve the verb at all: nothing to try again soon. */
const isRefused = (error: unknown): boolean => error instanceof Fault && error.details.code === 'link.refused'
