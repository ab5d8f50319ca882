import assert from 'node:assert/strict'
import { test } from 'node:test'
import { FOREIGN, MEMBER, testCloud } from '#kit/http/test.ts'
import { neutron } from '../service.ts'

const N = '/networking/v2.0'

test('helpers of a router: made, changed and removed by its project, one of a kind, those that Linux has', async t => {
  const { call } = await testCloud(t, [neutron])
  const router = (await call(`POST ${N}/routers`, { as: MEMBER, body: { router: { name: 'r' } } })).body.router
  assert.deepEqual(router.conntrack_helpers, [])
  const at = `${N}/routers/${router.id}/conntrack_helpers`
  const make = (given: object, as = MEMBER) => call(`POST ${at}`, { as, body: { conntrack_helper: given } })
  const made = await make({ helper: 'tftp', protocol: 'udp', port: 69 })
  assert.equal(made.status, 201, JSON.stringify(made.body))
  const { id, ...shown } = made.body.conntrack_helper
  assert.deepEqual(shown, { helper: 'tftp', protocol: 'udp', port: 69 })
  for (const [given, type] of [
    [{ helper: 'tftp', protocol: 'udp', port: 69 }, 'BadRequest'],
    [{ helper: 'tftp', protocol: 'tcp', port: 69 }, 'InvalidProtocolForHelper'],
    [{ helper: 'toString', protocol: 'tcp', port: 69 }, 'ConntrackHelperNotAllowed'],
    [{ helper: 'ftp', protocol: 'tcp', port: 0 }, 'HTTPBadRequest'],
    [{ helper: 'ftp', protocol: 'x', port: 21 }, 'HTTPBadRequest'],
  ] as const) {
    const { status, body } = await make(given)
    assert.deepEqual([status, body.NeutronError?.type], [400, type], JSON.stringify(given))
  }
  assert.equal((await make({ helper: 'ftp', protocol: 'tcp', port: 21 }, FOREIGN)).status, 404)
  assert.equal((await call(`GET ${at}/${id}`, { as: FOREIGN })).status, 404)
  const changed = await call(`PUT ${at}/${id}`, { as: MEMBER, body: { conntrack_helper: { port: 1069 } } })
  assert.equal(changed.body.conntrack_helper?.port, 1069, JSON.stringify(changed.body))
  const wrong = await call(`PUT ${at}/${id}`, { as: MEMBER, body: { conntrack_helper: { helper: 'ftp' } } })
  assert.equal(wrong.body.NeutronError?.type, 'InvalidProtocolForHelper')
  const after = (await call(`GET ${N}/routers/${router.id}`, { as: MEMBER })).body.router
  assert.deepEqual(after.conntrack_helpers, [{ helper: 'tftp', protocol: 'udp', port: 1069 }])
  assert.equal(after.revision_number, router.revision_number + 2)
  assert.equal((await call(`DELETE ${at}/${id}`, { as: MEMBER })).status, 204)
  assert.deepEqual((await call(`GET ${at}`, { as: MEMBER })).body.conntrack_helpers, [])
  assert.equal((await make({ helper: 'ftp', protocol: 'tcp', port: 21 })).status, 201)
  assert.equal((await call(`DELETE ${N}/routers/${router.id}`, { as: MEMBER })).status, 204)
})
