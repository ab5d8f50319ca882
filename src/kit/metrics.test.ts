import assert from 'node:assert/strict'
import { test } from 'node:test'
import { memoryLog, silentLog } from './log.ts'
import { openMetrics } from './metrics.ts'

const value = (text: string, series: string) => {
  const line = text.split('\n').find(l => l.startsWith(`${series} `))
  return line === undefined ? undefined : Number(line.slice(series.length + 1))
}

test('requests are counted and timed by service, method, route and status', async () => {
  const metrics = openMetrics(silentLog)
  for (const ms of [0.5, 3, 30]) metrics.request('nova', 'GET', '/servers/:id', 200, ms)
  metrics.request('nova', 'GET', '/servers/:id', 404, 1)
  metrics.request('nova', 'BREW', '', 404, 1)
  const text = await metrics.text()
  const labels = 'service="nova",method="GET",route="/servers/:id"'
  assert.equal(value(text, `nubo_http_requests_total{${labels},status="200"}`), 3)
  assert.equal(value(text, `nubo_http_requests_total{${labels},status="404"}`), 1)
  assert.equal(value(text, 'nubo_http_requests_total{service="nova",method="other",route="none",status="404"}'), 1)
  assert.equal(value(text, `nubo_http_request_seconds_bucket{le="0.005",${labels}}`), 3)
  assert.equal(value(text, `nubo_http_request_seconds_count{${labels}}`), 4)
  assert.ok(Math.abs(value(text, `nubo_http_request_seconds_sum{${labels}}`)! - 0.0345) < 1e-9)
})

test('gauges are read when asked for; one that fails is left out and told', async () => {
  const log = memoryLog()
  const metrics = openMetrics(log)
  let running = 2
  metrics.gauge('nubo_sagas', 'Sagas.', async () => [{ labels: { state: 'running' }, value: running }], ['state'])
  metrics.gauge('nubo_hosts', 'Hosts.', () => {
    if (running === 3) throw new Error('database away')
    return 7
  })
  const first = await metrics.text()
  assert.deepEqual([value(first, 'nubo_sagas{state="running"}'), value(first, 'nubo_hosts')], [2, 7])
  running = 3
  await metrics.text()
  const second = await metrics.text()
  assert.deepEqual([value(second, 'nubo_sagas{state="running"}'), value(second, 'nubo_hosts')], [3, undefined])
  assert.ok(value(second, 'nubo_metrics_failures_total{gauge="nubo_hosts"}')! >= 1)
  assert.equal(log.records[0]!.gauge, 'nubo_hosts')
})

test('counters and histograms of others', async () => {
  const metrics = openMetrics(silentLog)
  const steps = metrics.counter('nubo_steps_total', 'Steps.', ['saga'])
  steps.add({ saga: 'a' })
  steps.add({ saga: 'a' }, 4)
  metrics.histogram('nubo_wait_seconds', 'Waits.', { buckets: [1, 2] }).observe(1.5)
  const text = await metrics.text()
  assert.equal(value(text, 'nubo_steps_total{saga="a"}'), 5)
  assert.equal(value(text, 'nubo_wait_seconds_bucket{le="2"}'), 1)
})

test('the process tells of itself', async () => {
  const metrics = openMetrics(silentLog)
  const text = await metrics.text()
  for (const name of [
    'process_resident_memory_bytes',
    'process_open_fds',
    'process_cpu_seconds_total{mode="user"}',
    'nodejs_heap_size_used_bytes',
  ])
    assert.ok(value(text, name)! > 0, name)
  assert.equal(value(text, `nodejs_version_info{version="${process.version}"}`), 1)
  const twice = value(await metrics.text(), 'process_cpu_seconds_total{mode="user"}')!
  assert.ok(twice < (process.cpuUsage().user / 1e6) * 1.01, 'processor time is not added up at each reading')
  assert.match(metrics.contentType, /^text\/plain; version=0\.0\.4/)
})
