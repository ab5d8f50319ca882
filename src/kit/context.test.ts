import assert from 'node:assert/strict'
import { test } from 'node:test'
import { anonymousContext, contextOf, internalContext, newRequestId, type Who } from './context.ts'
import { badRequest, Fault } from './fault.ts'
import { enforcer, parseOverrides } from './policy/index.ts'

const rule = (name: string, check: string) => ({ name, check, description: name })
const policy = () =>
  enforcer([
    {
      name: 'nova',
      rules: [
        rule('get', 'rule:context_is_admin or project_id:%(project_id)s'),
        rule('inside', 'is_admin:True'),
        rule('tok', 'token.project.domain.id:%(d)s'),
        rule('svc', 'service_roles:service'),
        rule('open', '@'),
      ],
    },
    {
      name: 'neutron',
      rules: [rule('context_is_admin', 'role:netadmin'), rule('create_port', 'tenant_id:%(tenant_id)s')],
      denied: name => badRequest(`no ${name}`),
    },
  ])
const member: Who = {
  userId: 'u',
  userDomainId: 'default',
  projectId: 'p',
  projectDomainId: 'pd',
  domainId: null,
  systemScope: false,
  roles: ['member'],
  extra: { trust_id: 't', token: { methods: ['password'] } },
  service: { userId: 's', userDomainId: 'default', projectId: 'sp', projectDomainId: 'default', roles: ['service'] },
}

test('a context carries the token and asks the policy', () => {
  const ctx = contextOf(member, policy().of('nova'), 'req-1')
  assert.deepEqual(
    [
      ctx.requestId,
      ctx.userId,
      ctx.projectId,
      ctx.domainId,
      ctx.systemScope,
      ctx.roles,
      ctx.userDomainId,
      ctx.projectDomainId,
      ctx.isAdmin,
    ],
    ['req-1', 'u', 'p', null, false, ['member'], 'default', 'pd', false],
  )
  assert.equal(ctx.can('get', { project_id: 'p' }), true)
  assert.equal(ctx.can('get', { project_id: 'q' }), false)
  assert.equal(ctx.can('tok', { d: 'pd' }), true)
  assert.equal(ctx.can('svc'), true)
  assert.equal(ctx.credentials.trust_id, 't')
  assert.deepEqual((ctx.credentials.token as { methods: string[] }).methods, ['password'])
  ctx.must('get', { project_id: 'p' })
  assert.throws(
    () => ctx.must('get', { project_id: 'q' }),
    (e: Fault) => e instanceof Fault && e.kind === 'forbidden' && e.message === "Policy doesn't allow get to be performed.",
  )
})

test('an administrator is what the service says, in each service', () => {
  const nova = policy().of('nova')
  const admin = contextOf({ ...member, roles: ['Admin'] }, nova, 'r')
  assert.deepEqual([admin.isAdmin, admin.can('inside'), admin.as('neutron').isAdmin], [true, true, false])
  const net = contextOf({ ...member, roles: ['netadmin'] }, nova, 'r')
  assert.deepEqual([net.isAdmin, net.can('inside'), net.as('neutron').isAdmin], [false, false, true])
  assert.equal(net.as('neutron').requestId, 'r')
})

test("another service's rule is found from here, and refused in that service's words through as()", () => {
  const ctx = contextOf(member, policy().of('nova'), 'r')
  assert.equal(ctx.can('create_port', { tenant_id: 'p' }), true)
  assert.throws(() => ctx.as('neutron').must('create_port', { tenant_id: 'q' }), { message: 'no create_port' })
})

test('what depends on the token is computed once, until the policy is reloaded', () => {
  const all = policy()
  const nova = all.of('nova')
  const [a, b] = [contextOf(member, nova, 'req-a'), contextOf(member, nova, 'req-b')]
  assert.equal(a.credentials, b.credentials)
  assert.equal(a.can, b.can)
  all.reload(parseOverrides('context_is_admin: role:member', 'policy.yaml'))
  assert.equal(contextOf(member, nova, 'req-c').isAdmin, true)
  assert.equal(contextOf(member, nova, 'req-c').can('inside'), true)
})

test('nobody may only what everybody may, and does not own what has no owner', () => {
  const ctx = anonymousContext(policy().of('nova'), 'r')
  assert.deepEqual(
    [ctx.can('open'), ctx.can('get', { project_id: null }), ctx.can('svc'), ctx.isAdmin],
    [true, false, false, false],
  )
})

test('own work may everything, also seen by another service', () => {
  const ctx = internalContext(policy().of('nova'), newRequestId(), { projectId: 'p' })
  assert.deepEqual([ctx.can('get', { project_id: 'x' }), ctx.isAdmin, ctx.projectId], [true, true, 'p'])
  ctx.as('neutron').must('create_port', { tenant_id: 'zzz' })
  assert.match(ctx.requestId, /^req-[0-9a-f-]{36}$/)
})
