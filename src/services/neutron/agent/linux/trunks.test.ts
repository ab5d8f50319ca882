import assert from 'node:assert/strict'
import { test } from 'node:test'
import { batch } from '#host/net/ip.ts'
import { tapName } from '../names.ts'
import { testDesired, testNetwork, testPort, testRule, testSubnet } from '../testing.ts'
import { testHost } from './world.ts'

const skip = process.getuid?.() === 0 ? false : 'needs root'

test('a subport is reached by its tag on the tap of its parent; a kernel without VLANs is told', { skip }, async t => {
  const host = await testHost(t, 'tr')
  const [own, carried] = [testNetwork([testSubnet('10.1.0.0/24')]), testNetwork([testSubnet('10.2.0.0/24')])]
  const id = '99999999-9999-4999-8999-999999999999'
  const parent = testPort(own, ['10.1.0.5'], { securityGroups: [id] })
  const sub = testPort(carried, ['10.2.0.5'], {
    securityGroups: [id],
    deviceOwner: 'trunk:subport',
    subport: { parentId: parent.id, tag: 7 },
  })
  const far = testPort(carried, ['10.2.0.6'], { securityGroups: [id] })
  const rules = [testRule('egress'), testRule('ingress')]
  const desired = testDesired({
    networks: [own, carried],
    ports: [parent, sub, far],
    securityGroups: [{ id, stateful: true, rules }],
  })
  const [gp, gf] = [await host.guest(parent, own), await host.guest(far, carried)]
  const { vlan } = (await host.driver.probe()).features
  const report = await host.driver.apply(desired)
  const status = (port: typeof parent) => report.ports.find(one => one.id === port.id)?.status
  assert.deepEqual([status(parent), status(far)], ['ACTIVE', 'ACTIVE'])
  if (!vlan) {
    assert.equal(status(sub), 'BUILD')
    assert.deepEqual(
      report.errors.map(({ kind, id }) => [kind, id]),
      [['port', sub.id]],
    )
    assert.match(report.errors[0]!.message, new RegExp(`^VLAN 7 on ${tapName(parent.id)}: ip link add`))
    return
  }
  assert.deepEqual(report.errors, [])
  assert.equal(status(sub), 'ACTIVE')
  await batch({ netns: gp.netns }, [
    ['link', 'add', 'link', 'eth0', 'name', 'eth0.7', 'address', sub.mac, 'type', 'vlan', 'id', 7],
    ['link', 'set', 'eth0.7', 'up'],
    ['addr', 'add', '10.2.0.5/24', 'dev', 'eth0.7'],
  ])
  assert.equal(await gf.ping('10.2.0.5'), true)
  assert.deepEqual((await host.driver.apply({ ...desired, ports: [parent, far] })).errors, [])
  assert.equal(await gf.ping('10.2.0.5', 0.4), false)
})
