import assert from 'node:assert/strict'
import { test } from 'node:test'
import { computeCloud, IMAGE } from './testing.ts'

test('the period of a usage is shown as it was asked for, to the microsecond', async t => {
  const { call, settled } = await computeCloud(t)
  const server = { name: 'web', imageRef: IMAGE, flavorRef: 'f1', networks: 'none' }
  await call('POST /compute/v2.1/servers', { body: { server }, headers: { 'OpenStack-API-Version': 'compute 2.37' } })
  await settled()
  const usage = async (query: string) => (await call(`GET /compute/v2.1/os-simple-tenant-usage/admin-project?${query}`)).body
  const whole = (await usage('start=2026-01-01T10:00:00.918074&end=2099-01-01')).tenant_usage
  assert.deepEqual([whole.start, whole.stop], ['2026-01-01T10:00:00.918074', '2099-01-01T00:00:00.000000'])
  assert.equal(whole.server_usages.length, 1)
  assert.match((await usage('')).tenant_usage.start, /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}$/)
  for (const bad of ['start=2026-01-01T10', 'start=2026-13-01', 'start=2026-01-02&end=2026-01-01'])
    assert.equal((await usage(bad)).badRequest.code, 400, bad)
})
