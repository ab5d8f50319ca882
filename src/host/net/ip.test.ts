import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { test } from 'node:test'
import { parseConnections } from './conntrack.ts'
import {
  batch,
  forwardingList,
  linkFetch,
  linkList,
  neighbourList,
  parseForwarding,
  parseLinks,
  parseNeighbours,
  parseRoutes,
  routeList,
} from './ip.ts'
import { inNetns, netnsDelete, netnsEnsure, netnsList } from './netns.ts'
import { sysctlEnsure } from './sysctl.ts'
import { testNetns } from './test.ts'

const root = process.getuid?.() === 0 ? false : 'needs root'

test('parses captured links with addresses, bridge and vxlan data', () => {
  const links =
    parseLinks(`[{"ifindex":1,"ifname":"lo","flags":["LOOPBACK","UP"],"mtu":65536,"address":"00:00:00:00:00:00","addr_info":[{"family":"inet","local":"127.0.0.1","prefixlen":8,"scope":"host"}]},{},
  {"ifindex":4,"ifname":"vxlan-5","flags":["BROADCAST","UP"],"mtu":1450,"master":"brq1","address":"8e:00:00:00:00:01","linkinfo":{"info_kind":"vxlan","info_data":{"id":5,"local":"10.9.0.1","port":4789,"learning":false},"info_slave_kind":"bridge","info_slave_data":{"neigh_suppress":true}},"addr_info":[]},
  {"ifindex":5,"link":"eth1","ifname":"eth1.7","flags":[],"mtu":1500,"address":"8e:00:00:00:00:02","linkinfo":{"info_kind":"vlan","info_data":{"id":7}},"addr_info":[{}]}]`)
  assert.deepEqual(
    links.map(({ name, up, kind, master, parent }) => [name, up, kind, master, parent]),
    [
      ['lo', true, null, null, null],
      ['vxlan-5', true, 'vxlan', 'brq1', null],
      ['eth1.7', false, 'vlan', null, 'eth1'],
    ],
  )
  assert.deepEqual(links[0]?.addresses, [{ ip: '127.0.0.1', prefixLength: 8, scope: 'host' }])
  assert.equal(links[1]?.data.id, 5)
  assert.equal(links[1]?.portData.neigh_suppress, true)
})

test('parses captured routes, neighbours, forwarding entries', () => {
  assert.deepEqual(
    parseRoutes(
      '[{"dst":"default","gateway":"10.0.0.1","dev":"qg-1","protocol":"static","flags":[]},{"dst":"10.5.0.0/24","protocol":"static","flags":[],"nexthops":[{"gateway":"10.0.0.2","dev":"a","weight":1},{"gateway":"10.0.0.3","dev":"a","weight":1}]}]',
    ).map(r => [r.destination, r.gateways, r.device]),
    [
      ['default', ['10.0.0.1'], 'qg-1'],
      ['10.5.0.0/24', ['10.0.0.2', '10.0.0.3'], null],
    ],
  )
  assert.deepEqual(
    parseNeighbours(
      '[{"dst":"10.0.0.9","dev":"x","lladdr":"fa:16:3e:00:00:09","state":["PERMANENT"]},{"dst":"10.0.0.8","dev":"x","state":["FAILED"]}]',
    ),
    [{ ip: '10.0.0.9', mac: 'fa:16:3e:00:00:09', device: 'x', permanent: true }],
  )
  assert.deepEqual(
    parseForwarding(
      '[{"mac":"00:00:00:00:00:00","ifname":"vxlan-5","dst":"10.9.0.2","flags":["self"],"state":"permanent"},{"mac":"fa:16:3e:00:00:09","ifname":"vxlan-5","flags":[],"master":"brq1","state":"static"}]',
    ).map(e => [e.mac, e.destination, e.master]),
    [
      ['00:00:00:00:00:00', '10.9.0.2', null],
      ['fa:16:3e:00:00:09', null, 'brq1'],
    ],
  )
})

test('parses captured connections: the first direction, the zone, icmp', () => {
  const found =
    parseConnections(`ipv4     2 tcp      6 431999 ESTABLISHED src=10.0.0.5 dst=10.0.0.6 sport=43210 dport=22 src=10.0.0.6 dst=10.0.0.5 sport=22 dport=43210 [ASSURED] mark=0 zone=100 use=1
ipv4     2 icmp     1 29 src=10.0.0.5 dst=10.0.0.6 type=8 code=0 id=7 src=10.0.0.6 dst=10.0.0.5 type=0 code=0 id=7 mark=0 zone=100 use=1
conntrack v1.4.7 (conntrack-tools): 2 flow entries have been shown.`)
  assert.deepEqual(
    found.map(c => [c.protocol, c.source, c.destination, c.sourcePort, c.destinationPort, c.icmpType, c.zone]),
    [
      [6, '10.0.0.5', '10.0.0.6', 43210, 22, null, 100],
      [1, '10.0.0.5', '10.0.0.6', null, null, 8, 100],
    ],
  )
})

test('a batch is read back; its error names the line', { skip: root }, async t => {
  const place = { netns: await testNetns(t, 'ip') }
  await batch(place, [
    ['link', 'add', 'brA', 'type', 'bridge', 'nf_call_iptables', 1],
    ['link', 'add', 'vxlan-5', 'type', 'vxlan', 'id', 5, 'local', '127.0.0.1', 'dstport', 4789, 'nolearning'],
    ['link', 'set', 'vxlan-5', 'master', 'brA', 'up'],
    ['link', 'set', 'brA', 'up'],
    ['addr', 'add', '10.7.0.1/24', 'dev', 'brA'],
    ['neigh', 'replace', '10.7.0.9', 'lladdr', 'fa:16:3e:00:00:09', 'dev', 'brA', 'nud', 'permanent'],
    ['route', 'replace', '10.8.0.0/24', 'via', '10.7.0.2', 'proto', 'static'],
  ])
  await batch(place, [['fdb', 'replace', 'fa:16:3e:00:00:09', 'dev', 'vxlan-5', 'dst', '10.9.0.2']], 'bridge')
  const links = await linkList(place)
  assert.equal(links.get('vxlan-5')?.master, 'brA')
  assert.equal(links.get('vxlan-5')?.data.learning, false)
  assert.equal(links.get('brA')?.data.nf_call_iptables, 1)
  assert.deepEqual(
    links.get('brA')?.addresses.filter(a => a.scope === 'global'),
    [{ ip: '10.7.0.1', prefixLength: 24, scope: 'global' }],
  )
  assert.equal((await linkFetch(place, 'brA'))?.kind, 'bridge')
  assert.equal(await linkFetch(place, 'none'), undefined)
  assert.deepEqual(
    (await routeList(place, 4)).filter(r => r.protocol === 'static').map(r => [r.destination, r.gateways]),
    [['10.8.0.0/24', ['10.7.0.2']]],
  )
  assert.deepEqual(
    (await neighbourList(place, 'brA')).map(n => n.ip),
    ['10.7.0.9'],
  )
  assert.ok((await forwardingList(place, 'vxlan-5')).some(e => e.destination === '10.9.0.2'))
  await assert.rejects(
    batch(place, [
      ['link', 'set', 'lo', 'up'],
      ['link', 'del', 'nothere'],
    ]),
    /^RunError: ip link del nothere: .*nothere/,
  )
  await assert.rejects(batch(place, [['link', 'set', 'lo up\nlink del lo']]), TypeError)
})

test('a setting is written once', { skip: root }, async t => {
  const place = { netns: await testNetns(t, 'sysctl') }
  await sysctlEnsure(place, { 'net/ipv4/ip_forward': 1, 'net/ipv4/conf/all/arp_notify': 1 })
  await sysctlEnsure(place, { 'net/ipv4/ip_forward': 1 })
  await assert.rejects(sysctlEnsure(place, { 'net/ipv4/nothing': 1 }), /nothing/)
})

test('namespaces are made and removed, each twice', { skip: root }, async t => {
  const name = await testNetns(t, 'twice')
  await netnsEnsure({}, name)
  assert.ok((await netnsList()).has(name))
  assert.equal(await inNetns(process.pid, name), false)
  await netnsDelete(name)
  await netnsDelete(name)
  assert.equal((await netnsList()).has(name), false)
})

test('a namespace with a pair of links all its own is removed too', { skip: root }, async t => {
  const name = await testNetns(t, 'pair')
  await batch({ netns: name }, [['link', 'add', 'p0', 'type', 'veth', 'peer', 'name', 'p1']])
  await netnsDelete(name)
  assert.equal((await netnsList()).has(name), false)
})

test('a file left over where a namespace was is no namespace, and not in the way', { skip: root }, async t => {
  const name = await testNetns(t, 'stale')
  await netnsDelete(name)
  await writeFile(`/run/netns/${name}`, '')
  assert.equal((await netnsList()).has(name), false)
  await netnsEnsure({}, name)
  assert.equal((await netnsList()).has(name), true)
})
