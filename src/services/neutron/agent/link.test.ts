import assert from 'node:assert/strict'
import { test } from 'node:test'
import { notify, serve } from '#kit/link/index.ts'
import { keptLog, memoryLink } from '#kit/link/testing.ts'
import { netDesired, netHello, netInventory, netPoke, netReport } from '../verbs.ts'
import type { NetDesired, NetReport } from './desired.ts'
import { networkAgent } from './link.ts'
import { memoryNet } from './memory/driver.ts'
import { tapName } from './names.ts'
import { testDesired, testNetwork, testPort, testSubnet } from './testing.ts'

/** An agent with a pretended host, and a controller that answers what the test sets and keeps what it hears. */
async function setUp(t: { after(fn: () => Promise<void>): void }, first: NetDesired) {
  const controller = { desired: first, asked: 0, hellos: 0, reports: [] as NetReport[], heard: () => {}, fail: '' }
  const { hosts, link } = await memoryLink('h1')
  hosts.serve({}, [
    serve(netDesired, () => {
      controller.asked++
      if (controller.fail) throw new Error(controller.fail)
      return controller.desired
    }),
    serve(netReport, report => {
      controller.reports.push(report)
      controller.heard()
      return null
    }),
    serve(netHello, () => {
      controller.hellos++
      return null
    }),
  ])
  const driver = memoryNet()
  const log = keptLog()
  const agent = await networkAgent({ link, driver, log })
  t.after(async () => {
    await agent.close()
    await driver.close()
    await link.close()
    await hosts.close()
  })
  const until = async (good: (report: NetReport) => boolean) => {
    while (!controller.reports.some(good)) await new Promise<void>(resolve => (controller.heard = resolve))
  }
  return { controller, hosts, driver, agent, until, log }
}

const network = testNetwork([testSubnet('10.0.0.0/24')])

test('asks on connect, applies, reports; a tap is reported alone and at once', async t => {
  const port = testPort(network, ['10.0.0.5'])
  const { controller, hosts, driver, until } = await setUp(t, testDesired({ revision: 7, networks: [network], ports: [port] }))
  await until(report => report.full && report.revision === 7 && report.ports[0]?.status === 'BUILD')
  assert.equal(controller.hellos, 1)
  driver.tap(tapName(port.id), true)
  await until(report => !report.full && report.ports[0]?.status === 'ACTIVE')
  assert.deepEqual(
    (await hosts.call('h1', netInventory, {})).filter(thing => thing.name === tapName(port.id)),
    [{ kind: 'link', name: tapName(port.id), id: tapName(port.id).slice(3), wanted: true }],
  )
  driver.tap(tapName(port.id), false)
  await until(report => !report.full && report.ports[0]?.status === 'BUILD')
})

test('pokes are gathered: many while a pass runs are one more', async t => {
  const { controller, hosts, agent, until } = await setUp(t, testDesired({ revision: 1 }))
  await until(report => report.revision === 1)
  await agent.sync()
  const before = controller.asked
  controller.desired = testDesired({ revision: 2 })
  for (let i = 0; i < 50; i++) notify({ hosts }, 'h1', netPoke)
  await until(report => report.revision === 2)
  await agent.sync()
  assert.ok(controller.asked - before <= 4, `${controller.asked - before} asked`)
})

test('a pass that fails is said and tried again', async t => {
  const { controller, agent, until, log } = await setUp(t, testDesired({ revision: 1 }))
  await until(report => report.revision === 1)
  controller.fail = 'database away'
  await agent.sync()
  await until(report => report.errors.some(error => error.kind === 'host' && error.message.includes('database away')))
  assert.ok(log.lines.some(line => line.level === 'warn'))
  controller.fail = ''
  controller.desired = testDesired({ revision: 3 })
  await agent.sync()
  assert.equal(controller.reports.at(-1)?.revision, 3)
})
