import assert from 'node:assert/strict'
import { test } from 'node:test'
import { FOREIGN, MEMBER, testCloud } from '#kit/http/test.ts'
import { neutron } from '../service.ts'

const N = '/networking/v2.0/metering'

test('labels and their rules: made by administrators, seen by their project, without overlap, gone together', async t => {
  const { call } = await testCloud(t, [neutron])
  const label = async (name: string) => {
    const { status, body } = await call(`POST ${N}/metering-labels`, { body: { metering_label: { name, project_id: 'p1' } } })
    assert.equal(status, 201, JSON.stringify(body))
    return body.metering_label.id as string
  }
  const [one, two] = [await label('one'), await label('two')]
  assert.equal((await call(`POST ${N}/metering-labels`, { as: MEMBER, body: { metering_label: {} } })).status, 403)
  const rule = (metering_label_id: string, more: object, as?: typeof MEMBER) =>
    call(`POST ${N}/metering-label-rules`, {
      body: { metering_label_rule: { metering_label_id, direction: 'ingress', ...more } },
      ...(as && { as }),
    })
  const made = await rule(one, { remote_ip_prefix: '10.0.0.0/8' })
  assert.equal(made.status, 201, JSON.stringify(made.body))
  const { id, ...shown } = made.body.metering_label_rule
  assert.deepEqual(shown, {
    metering_label_id: one,
    direction: 'ingress',
    excluded: false,
    remote_ip_prefix: '10.0.0.0/8',
    source_ip_prefix: null,
    destination_ip_prefix: null,
  })
  assert.equal((await rule(one, { remote_ip_prefix: '10.1.0.0/16' })).body.NeutronError?.type, 'MeteringLabelRuleOverlaps')
  assert.equal((await rule(one, { remote_ip_prefix: '10.1.0.0/16', excluded: true })).status, 201)
  assert.equal((await rule(two, { remote_ip_prefix: '10.1.0.0/16' })).status, 201)
  for (const wrong of [
    {},
    { remote_ip_prefix: '10.0.0.1/8' },
    { remote_ip_prefix: '192.0.2.0/24', source_ip_prefix: '10.0.0.0/8' },
  ])
    assert.equal((await rule(two, wrong)).status, 400, JSON.stringify(wrong))
  assert.equal((await rule(one, { remote_ip_prefix: '192.0.2.0/24' }, MEMBER)).status, 403)
  assert.equal((await rule('11111111-1111-4111-8111-111111111111', { remote_ip_prefix: '10.0.0.0/8' })).status, 404)
  assert.equal((await call(`GET ${N}/metering-label-rules/${id}`, { as: MEMBER })).status, 200)
  assert.equal((await call(`GET ${N}/metering-label-rules/${id}`, { as: FOREIGN })).status, 404)
  assert.deepEqual((await call(`GET ${N}/metering-labels`, { as: FOREIGN })).body.metering_labels, [])
  assert.equal((await call(`DELETE ${N}/metering-labels/${one}`)).status, 204)
  assert.equal((await call(`GET ${N}/metering-label-rules/${id}`)).status, 404)
})
