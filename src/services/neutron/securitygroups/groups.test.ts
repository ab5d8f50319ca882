import assert from 'node:assert/strict'
import { test } from 'node:test'
import { FOREIGN, MEMBER, testCloud } from '#kit/http/test.ts'
import { neutron } from '../service.ts'

const N = '/networking/v2.0'

test('a project has a default group with its four rules', async t => {
  const { call } = await testCloud(t, [neutron])
  const { body } = await call(`GET ${N}/security-groups`, { as: MEMBER })
  assert.equal(body.security_groups.length, 1)
  const [group] = body.security_groups
  assert.equal(group.name, 'default')
  const rules = group.security_group_rules.map((r: Record<string, unknown>) => [
    r.direction,
    r.ethertype,
    r.remote_group_id === group.id,
  ])
  assert.deepEqual(rules.sort(), [
    ['egress', 'IPv4', false],
    ['egress', 'IPv6', false],
    ['ingress', 'IPv4', true],
    ['ingress', 'IPv6', true],
  ])
  assert.match(group.security_group_rules[0].created_at, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/)
  assert.equal((await call(`DELETE ${N}/security-groups/${group.id}`, { as: MEMBER })).status, 409)
  assert.equal((await call(`GET ${N}/security-groups/${group.id}`, { as: FOREIGN })).status, 404)
  const again = await call(`POST ${N}/security-groups`, { as: MEMBER, body: { security_group: { name: 'default' } } })
  assert.equal(again.body.NeutronError.type, 'SecurityGroupDefaultAlreadyExists')
})

test('rules are checked, normalized and unique', async t => {
  const { call } = await testCloud(t, [neutron])
  const made = await call(`POST ${N}/security-groups`, { as: MEMBER, body: { security_group: { name: 'web' } } })
  assert.equal(made.status, 201, JSON.stringify(made.body))
  const { id } = made.body.security_group
  assert.equal(made.body.security_group.security_group_rules.length, 2)
  const rule = (more: object, as = MEMBER) =>
    call(`POST ${N}/security-group-rules`, {
      as,
      body: { security_group_rule: { security_group_id: id, direction: 'ingress', ...more } },
    })
  const web = await rule({ protocol: 'TCP', port_range_min: '80', port_range_max: 80, remote_ip_prefix: '10.0.0.5/8' })
  assert.equal(web.status, 201, JSON.stringify(web.body))
  assert.equal(web.body.security_group_rule.protocol, 'tcp')
  assert.equal(web.body.security_group_rule.normalized_cidr, '10.0.0.0/8')
  assert.equal((await rule({ protocol: 'icmp', ethertype: 'ipv6' })).body.security_group_rule.protocol, 'ipv6-icmp')
  const kinds: [object, number, string][] = [
    [{ protocol: 'tcp', port_range_min: 80, port_range_max: 80, remote_ip_prefix: '10.0.0.5/8' }, 409, 'SecurityGroupRuleExists'],
    [{ port_range_min: 80, port_range_max: 80 }, 400, 'SecurityGroupProtocolRequiredWithPorts'],
    [{ protocol: 'tcp', port_range_min: 90, port_range_max: 80 }, 400, 'SecurityGroupInvalidPortRange'],
    [{ protocol: 'icmp', port_range_max: 80 }, 400, 'SecurityGroupMissingIcmpType'],
    [{ protocol: 'icmp', port_range_min: 256 }, 400, 'SecurityGroupInvalidIcmpValue'],
    [{ protocol: 'nonsense' }, 400, 'SecurityGroupRuleInvalidProtocol'],
    [{ ethertype: 'IPv9' }, 400, 'SecurityGroupRuleInvalidEtherType'],
    [{ remote_ip_prefix: '::/0' }, 400, 'SecurityGroupRuleParameterConflict'],
    [{ remote_ip_prefix: '0.0.0.0/0', remote_group_id: id }, 400, 'SecurityGroupMultipleRemoteEntites'],
    [{ remote_group_id: '7c9e6679-7425-40de-944b-e07fc1f90ae7' }, 404, 'SecurityGroupNotFound'],
  ]
  for (const [given, status, type] of kinds) {
    const { status: is, body } = await rule(given)
    assert.deepEqual([is, body.NeutronError.type], [status, type], JSON.stringify(given))
  }
  assert.equal((await rule({ protocol: 'udp' }, FOREIGN)).status, 404)
  const bulk = await call(`POST ${N}/security-group-rules`, {
    as: MEMBER,
    body: { security_group_rules: ['udp', 'sctp'].map(protocol => ({ security_group_id: id, direction: 'egress', protocol })) },
  })
  assert.equal(bulk.body.security_group_rules.length, 2)
  assert.equal((await call(`DELETE ${N}/security-group-rules/${web.body.security_group_rule.id}`, { as: MEMBER })).status, 204)
  assert.equal((await call(`DELETE ${N}/security-groups/${id}`, { as: MEMBER })).status, 204)
})

test('of equal rules made at once one is there', async t => {
  const { call } = await testCloud(t, [neutron])
  const { body } = await call(`GET ${N}/security-groups`, { as: MEMBER })
  const given = {
    security_group_id: body.security_groups[0].id,
    direction: 'ingress',
    protocol: 'tcp',
    port_range_min: 22,
    port_range_max: 22,
  }
  const made = await Promise.all(
    Array.from({ length: 20 }, () =>
      call(`POST ${N}/security-group-rules`, { as: MEMBER, body: { security_group_rule: given } }),
    ),
  )
  assert.equal(made.filter(answer => answer.status === 201).length, 1)
})
