import assert from 'node:assert/strict'
import { createServer } from 'node:net'
import { type TestContext, test } from 'node:test'
import { linkList } from '#host/net/ip.ts'
import { listenIn } from '#host/net/listen.ts'
import { shapedList } from '#host/net/tc.ts'
import { follow, run } from '#host/run.ts'
import type { DesiredQos } from '../desired.ts'
import { limitLink, tapName } from '../names.ts'
import { testDesired, testNetwork, testPort, testSubnet } from '../testing.ts'
import { type TestGuest, testHost } from './world.ts'

const skip = process.getuid?.() === 0 ? false : 'needs root'

const none = { bandwidth: null, packets: null }
const qos = (more: Partial<DesiredQos>): DesiredQos => ({ egress: none, ingress: none, dscp: null, ...more })

/** Two guests without filters of their own, the first with the policy. */
async function pair(t: TestContext, word: string) {
  const host = await testHost(t, word)
  const network = testNetwork([testSubnet('10.0.0.0/24')])
  const free = { portSecurity: false }
  const [a, b] = [testPort(network, ['10.0.0.5'], free), testPort(network, ['10.0.0.6'], free)]
  const apply = async (policy: DesiredQos | null) => {
    const { errors } = await host.driver.apply(testDesired({ networks: [network], ports: [{ ...a, qos: policy }, b] }))
    assert.deepEqual(errors, [])
  }
  const guest = () => host.guest(a, network)
  return { host, a, apply, guest, guests: async () => [await guest(), await host.guest(b, network)] as const }
}

/** How long so many bytes take from one guest to another, in seconds by the receiver's clock. */
async function carried(t: TestContext, from: TestGuest, to: TestGuest, ip: string, bytes: number): Promise<number> {
  const [handle] = await listenIn(to.netns, [{ host: '0.0.0.0', port: 5001 }])
  const took = Promise.withResolvers<number>()
  const server = createServer(socket => {
    let got = 0
    const began = performance.now()
    socket.on('data', chunk => {
      got += chunk.length
      if (got >= bytes) took.resolve((performance.now() - began) / 1000)
    })
    socket.on('error', took.reject)
  }).listen(handle)
  const sender = await follow(['bash', '-c', `head -c ${bytes} /dev/zero > /dev/tcp/${ip}/5001`], () => undefined, {
    netns: from.netns,
  })
  t.after(() => sender.stop())
  const seconds = await took.promise
  await sender.stop()
  await new Promise(resolve => server.close(resolve))
  return seconds
}

test('bandwidth: each way is held to its rate, changed in place, and let go', { skip }, async t => {
  const { host, a, apply, guests } = await pair(t, 'bw')
  const place = { netns: host.netns }
  // 2 MB at 8 Mbit/s are two seconds, less what a burst lets through.
  const limit = { bandwidth: { kbps: 8000, burst: 400 }, packets: null }
  const BYTES = 2_000_000
  const LEAST = (BYTES - 50_000) / 1_000_000
  await apply(qos({ egress: limit }))
  const [ga, gb] = await guests()
  await host.driver.wire([tapName(a.id), ...(await linkList(place)).keys()])
  assert.ok((await carried(t, ga, gb, '10.0.0.6', BYTES)) >= LEAST, 'what it sends is held back')
  assert.ok((await carried(t, gb, ga, '10.0.0.5', BYTES)) < LEAST, 'what it gets is not')

  await apply(qos({ ingress: limit }))
  assert.ok((await carried(t, gb, ga, '10.0.0.5', BYTES)) >= LEAST, 'what it gets is held back')
  assert.ok((await carried(t, ga, gb, '10.0.0.6', BYTES)) < LEAST, 'what it sends is not')
  assert.equal((await linkList(place)).has(limitLink(tapName(a.id))), false)

  await apply(qos({ egress: limit, ingress: limit }))
  const faster = { bandwidth: { kbps: 80_000, burst: 400 }, packets: null }
  await apply(qos({ egress: faster, ingress: faster }))
  assert.ok((await carried(t, ga, gb, '10.0.0.6', BYTES)) < LEAST, 'a higher rate is in force at once')
  const shaped = await shapedList(place)
  assert.equal(shaped.get(tapName(a.id))?.bucket?.rate, 10_000_000)
  assert.equal(shaped.get(limitLink(tapName(a.id)))?.bucket?.rate, 10_000_000)

  await apply(null)
  const after = await shapedList(place)
  assert.deepEqual(after.get(tapName(a.id))?.ingress ?? false, false)
  assert.equal(after.get(tapName(a.id))?.bucket ?? null, null)
  assert.equal((await linkList(place)).has(limitLink(tapName(a.id))), false)
})

test('bandwidth: what a killed pass left half made is mended; a new tap of the same port is limited; destroy leaves nothing', {
  skip,
}, async t => {
  const { host, a, apply, guest } = await pair(t, 'bwk')
  const place = { netns: host.netns }
  const [tap, through] = [tapName(a.id), limitLink(tapName(a.id))]
  const limit = { bandwidth: { kbps: 8000, burst: 400 }, packets: null }
  const ga = await guest()
  const whole = async () => {
    const shaped = await shapedList(place)
    const { stdout } = await run(['tc', 'filter', 'show', 'dev', tap, 'parent', 'ffff:'], place)
    return [shaped.get(tap)?.ingress, shaped.get(through)?.bucket?.rate, stdout.includes(`Redirect to device ${through}`)]
  }
  // Killed after the link was made; after what comes in was to be handled; after the limit had been taken away by half.
  await run(['ip', 'link', 'add', through, 'type', 'ifb'], place)
  await apply(qos({ egress: limit }))
  assert.deepEqual(await whole(), [true, 1_000_000, true])
  await run(['tc', 'qdisc', 'del', 'dev', through, 'root'], place)
  await run(['tc', 'filter', 'del', 'dev', tap, 'parent', 'ffff:'], place)
  await apply(qos({ egress: limit }))
  assert.deepEqual(await whole(), [true, 1_000_000, true])
  await run(['tc', 'qdisc', 'del', 'dev', tap, 'ingress'], place)
  await apply(qos({ egress: limit }))
  assert.deepEqual(await whole(), [true, 1_000_000, true])

  await ga.leaves()
  await apply(qos({ egress: limit }))
  assert.equal((await linkList(place)).has(through), false, 'its link goes with the tap')
  await guest()
  assert.deepEqual(await host.driver.wire([tap]), [{ id: a.id, status: 'ACTIVE' }])
  assert.deepEqual(await whole(), [true, 1_000_000, true])

  await host.driver.destroy()
  const links = await linkList(place)
  assert.equal(links.has(through), false)
  assert.equal((await shapedList(place)).get(tap)?.ingress ?? false, false)
})

test('packets: the rate each way; DSCP on what is sent, IPv4 and IPv6, and nothing on what is got', { skip }, async t => {
  const { apply, guests } = await pair(t, 'pps')
  const [ga, gb] = await guests()
  const counter = async (guest: TestGuest, match: string): Promise<() => Promise<number>> => {
    await guest.run(['nft', `add table inet c; add chain inet c in { type filter hook prerouting priority 0; }`])
    await guest.run(['nft', `add rule inet c in ${match} counter`])
    return async () => {
      const { stdout } = await guest.run(['nft', 'list', 'table', 'inet', 'c'])
      return Number(
        stdout
          .split('\n')
          .find(line => line.includes('counter'))!
          .match(/packets (\d+)/)![1],
      )
    }
  }
  /** Sends 2000 packets as quickly as it goes; gives the seconds that it took at most. */
  const burst = async (guest: TestGuest, ip: string): Promise<number> => {
    const began = performance.now()
    // Its usual buffer holds a dozen packets: what does not fit is not sent again.
    await guest.run(['ping', '-q', '-n', '-S', '200000', '-l', '2000', '-c', '2000', '-w', '1', ip], [0, 1])
    return (performance.now() - began) / 1000
  }
  const limits = { bandwidth: null, packets: { rate: 100, burst: 50 } }
  await apply(qos({ ingress: limits }))
  // They have found each other before anything is counted.
  await gb.run(['ping', '-q', '-n', '-c', '1', '-w', '5', '10.0.0.5'])
  const got = await counter(ga, 'icmp type echo-request')
  const seconds = await burst(gb, '10.0.0.5')
  const through = await got()
  assert.ok(through >= 45 && through <= 51 + 100 * seconds, `${through} packets in ${seconds} s`)

  await apply(qos({ egress: limits, dscp: 46 }))
  const marked = await counter(gb, 'ip dscp ef icmp type echo-request')
  const again = await burst(ga, '10.0.0.6')
  const sent = await marked()
  assert.ok(sent >= 45 && sent <= 51 + 100 * again, `${sent} packets in ${again} s`)
  await ga.run(['nft', 'flush', 'table', 'inet', 'c'])
  const back = await counter(ga, 'ip dscp ef')
  assert.equal(await gb.ping('10.0.0.5'), true)
  assert.equal(await back(), 0)

  await gb.run(['nft', 'flush', 'table', 'inet', 'c'])
  const six = await counter(gb, 'ip6 dscp ef')
  const { stdout } = await gb.run(['ip', '-6', '-j', 'addr', 'show', 'dev', 'eth0'])
  const { local } = (JSON.parse(stdout) as { addr_info: { local: string }[] }[])[0]!.addr_info[0]!
  assert.equal(await ga.ping(`${local}%eth0`), true)
  assert.ok((await six()) > 0)
})
