/**
 * Metrics in Prometheus' text form. One `Metrics` a process, made at start and passed on; whoever has something to tell makes a
 * counter or gives a gauge's question once. Labels must be bounded by the program, never by what clients send: route patterns,
 * not paths.
 */

import { readdir } from 'node:fs/promises'
import { type EventLoopUtilization, performance } from 'node:perf_hooks'
import { Counter, Gauge, Histogram, Registry } from 'prom-client'
import type { Log } from './log.ts'

/** What a gauge says when it is read: one number, or one for each set of labels. */
export type Reading = number | { labels: Record<string, string>; value: number }[]

export interface Metrics {
  /** One answered request. `route` is the pattern; '' where none matched. `ms` is how long it took. */
  request(service: string, method: string, route: string, status: number, ms: number): void
  /** Something that is counted. Names end in `_total`. */
  counter(name: string, help: string, labels?: readonly string[]): { add(labels?: Record<string, string>, by?: number): void }
  /** Durations or sizes. `buckets` are upper bounds in the unit that the name says. */
  histogram(
    name: string,
    help: string,
    options: { labels?: readonly string[]; buckets: number[] },
  ): { observe(value: number, labels?: Record<string, string>): void }
  /** Something that is read when it is asked for, and only then. One that fails is left out, counted and logged. */
  gauge(name: string, help: string, read: () => Reading | Promise<Reading>, labels?: readonly string[]): void
  /** The answer of `/metrics`. */
  text(): Promise<string>
  readonly contentType: string
}

const KNOWN_METHODS = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'COPY'])
const SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10]

/** The registry of this process, with the process's own figures and those of HTTP in it. */
export function openMetrics(log: Log): Metrics {
  const registers = [new Registry()]
  const registry = registers[0]!
  const failures = new Counter({
    name: 'nubo_metrics_failures_total',
    help: 'Gauges that could not be read.',
    labelNames: ['gauge'],
    registers,
  })
  const gauge: Metrics['gauge'] = (name, help, read, labels = []) => {
    new Gauge({
      name,
      help,
      labelNames: [...labels],
      registers,
      async collect() {
        this.reset()
        try {
          const reading = await read()
          if (typeof reading === 'number') this.set(reading)
          else for (const { labels: of, value } of reading) this.set(of, value)
        } catch (error) {
          this.remove()
          failures.inc({ gauge: name })
          log.warn({ err: error, gauge: name }, 'a gauge could not be read')
        }
      },
    })
  }
  processFigures(gauge, registers)
  return {
    request: requests(registers),
    gauge,
    counter(name, help, labels = []) {
      const counter = new Counter({ name, help, labelNames: [...labels], registers })
      return { add: (of = {}, by = 1) => counter.inc(of, by) }
    },
    histogram(name, help, { labels = [], buckets }) {
      const histogram = new Histogram({ name, help, labelNames: [...labels], buckets, registers })
      return { observe: (value, of = {}) => histogram.observe(of, value) }
    },
    text: () => registry.metrics(),
    contentType: registry.contentType,
  }
}

/** Finding a series by its labels is the costly part (they are sorted and hashed), so the found ones are kept by route and status. */
function requests(registers: Registry[]): Metrics['request'] {
  const answered = new Counter({
    name: 'nubo_http_requests_total',
    help: 'Requests that were answered.',
    labelNames: ['service', 'method', 'route', 'status'],
    registers,
  })
  const seconds = new Histogram({
    name: 'nubo_http_request_seconds',
    help: 'From the last byte of the request head to the end of the answer.',
    labelNames: ['service', 'method', 'route'],
    buckets: SECONDS,
    registers,
  })
  const series = new Map<string, { observe(value: number): void; statuses: Map<number, { inc(): void }> }>()
  return (service, method, route, status, ms) => {
    const verb = KNOWN_METHODS.has(method) ? method : 'other'
    const key = `${service} ${verb} ${route}`
    const labels = { service, method: verb, route: route || 'none' }
    let known = series.get(key)
    if (!known) {
      const timer = seconds.labels(labels)
      known = { observe: value => timer.observe(value), statuses: new Map() }
      series.set(key, known)
    }
    let count = known.statuses.get(status)
    if (!count) {
      count = answered.labels({ ...labels, status: String(status) })
      known.statuses.set(status, count)
    }
    count.inc()
    known.observe(ms / 1000)
  }
}

/** The process's figures under the names that dashboards for Prometheus expect. None needs a timer of its own: an idle process stays idle. */
function processFigures(gauge: Metrics['gauge'], registers: Registry[]): void {
  const cpu = new Counter({
    name: 'process_cpu_seconds_total',
    help: 'Processor time used, by mode.',
    labelNames: ['mode'],
    registers,
    collect() {
      const { user, system } = process.cpuUsage()
      this.reset()
      cpu.inc({ mode: 'user' }, user / 1e6)
      cpu.inc({ mode: 'system' }, system / 1e6)
    },
  })
  const began = Math.round(Date.now() / 1000 - process.uptime())
  gauge('process_start_time_seconds', 'When the process started, as Unix time.', () => began)
  gauge('process_resident_memory_bytes', 'Resident memory.', () => process.memoryUsage.rss())
  gauge('nodejs_heap_size_used_bytes', 'Memory used by JavaScript objects.', () => process.memoryUsage().heapUsed)
  gauge('nodejs_external_memory_bytes', 'Memory of buffers outside the JavaScript heap.', () => process.memoryUsage().external)
  if (process.platform === 'linux')
    gauge('process_open_fds', 'Open file descriptors.', async () => (await readdir('/proc/self/fd')).length - 1)
  let last: EventLoopUtilization = performance.eventLoopUtilization()
  gauge('nodejs_eventloop_utilization', 'Share of time since the last reading in which the event loop was busy.', () => {
    const now = performance.eventLoopUtilization()
    const { utilization } = performance.eventLoopUtilization(now, last)
    last = now
    return utilization
  })
  gauge('nodejs_version_info', 'The Node.js that runs this.', () => [{ labels: { version: process.version }, value: 1 }], [
    'version',
  ])
}
