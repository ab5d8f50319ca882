import assert from 'node:assert/strict'
import { test } from 'node:test'
import { FOREIGN, MEMBER, testCloud } from '#kit/http/test.ts'
import { neutron } from '../service.ts'

const N = '/networking/v2.0'

test('policies and their rules: made, shown, changed, removed, kept while in use', async t => {
  const { call } = await testCloud(t, [neutron])
  const made = await call(`POST ${N}/qos/policies`, { body: { policy: { name: 'slow', project_id: 'p1' } } })
  assert.equal(made.status, 201, JSON.stringify(made.body))
  const { id } = made.body.policy
  const rules = `${N}/qos/policies/${id}/bandwidth_limit_rules`
  const rule = await call(`POST ${rules}`, { body: { bandwidth_limit_rule: { max_kbps: 200, max_burst_kbps: 20 } } })
  assert.equal(rule.status, 201, JSON.stringify(rule.body))
  assert.equal(rule.body.bandwidth_limit_rule.direction, 'egress')
  const again = await call(`POST ${rules}`, { body: { bandwidth_limit_rule: { max_kbps: 300 } } })
  assert.deepEqual([again.status, again.body.NeutronError?.type], [409, 'QoSRulesConflict'])
  const mark = await call(`POST ${N}/qos/policies/${id}/dscp_marking_rules`, { body: { dscp_marking_rule: { dscp_mark: 7 } } })
  assert.equal(mark.status, 400)
  const path = `${rules}/${rule.body.bandwidth_limit_rule.id}`
  assert.equal((await call(`PUT ${path}`, { body: { bandwidth_limit_rule: { max_kbps: 400 } } })).status, 200)
  const shown = await call(`GET ${N}/qos/policies/${id}`, { as: MEMBER })
  assert.equal(shown.body.policy.rules[0].max_kbps, 400)
  assert.equal((await call(`GET ${N}/qos/policies/${id}`, { as: FOREIGN })).status, 404)
  const network = await call(`POST ${N}/networks`, { as: MEMBER, body: { network: { qos_policy_id: id } } })
  assert.equal(network.body.network.qos_policy_id, id, JSON.stringify(network.body))
  assert.equal((await call(`DELETE ${N}/qos/policies/${id}`)).body.NeutronError?.type, 'QosPolicyInUse')
  assert.equal((await call(`DELETE ${N}/networks/${network.body.network.id}`, { as: MEMBER })).status, 204)
  assert.equal((await call(`DELETE ${path}`)).status, 204)
  assert.equal((await call(`GET ${path}`)).status, 404)
  assert.equal((await call(`DELETE ${N}/qos/policies/${id}`)).status, 204)
})

test('rules of a shared policy are seen by who sees it; who may not use a policy does not take it off', async t => {
  const { call } = await testCloud(t, [neutron])
  const made = async (shared: boolean) =>
    (await call(`POST ${N}/qos/policies`, { body: { policy: { name: 'x', shared } } })).body.policy.id as string
  const [open, closed] = [await made(true), await made(false)]
  const rules = `${N}/qos/policies/${open}/dscp_marking_rules`
  const { dscp_marking_rule: rule } = (await call(`POST ${rules}`, { body: { dscp_marking_rule: { dscp_mark: 8 } } })).body
  assert.equal((await call(`GET ${rules}/${rule.id}`, { as: MEMBER })).body.dscp_marking_rule?.dscp_mark, 8)
  const body = { dscp_marking_rule: { dscp_mark: 8 } }
  for (const id of [open, closed, 'nowhere']) {
    assert.equal((await call(`POST ${N}/qos/policies/${id}/dscp_marking_rules`, { as: MEMBER, body })).status, 403)
  }
  const network = (await call(`POST ${N}/networks`, { as: MEMBER, body: { network: { name: 'n' } } })).body.network.id
  const port = (await call(`POST ${N}/ports`, { as: MEMBER, body: { port: { network_id: network } } })).body.port.id
  for (const [path, name] of [
    [`networks/${network}`, 'network'],
    [`ports/${port}`, 'port'],
  ] as const) {
    const put = (qos_policy_id: string | null, as?: typeof MEMBER) =>
      call(`PUT ${N}/${path}`, { body: { [name]: { qos_policy_id } }, ...(as && { as }) })
    assert.equal((await put(closed)).status, 200)
    const { status, body: refused } = await put(null, MEMBER)
    assert.deepEqual([status, refused.NeutronError?.type], [403, 'PolicyRemoveNotAuthorized'])
    assert.equal((await put(open)).status, 200)
    assert.equal((await put(null, MEMBER)).status, 200)
  }
})
