// A real guest under qemu on a real tap, wired by the network agent's driver: address, metadata, filters both ways, floating address, spoofing.
// Needs root, qemu and what builds the guest image. About ten seconds of processor.
import assert from 'node:assert/strict'
import { chmodSync, chownSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { batch } from '#host/net/ip.ts'
import { follow, run } from '#host/run.ts'
import type { DesiredRule, NetDesired } from '#services/neutron/agent/desired.ts'
import { BRIEFLY } from '#services/neutron/agent/driver.contract.ts'
import { testGuest, testHost } from '#services/neutron/agent/linux/world.ts'
import { tapName } from '#services/neutron/agent/names.ts'
import { testDesired, testNetwork, testPort, testRouter, testRule, testSubnet } from '#services/neutron/agent/testing.ts'
import { guestEnsure } from '../../guest/build.ts'

const NOBODY = 65534

async function able(): Promise<boolean> {
  if (process.getuid?.() !== 0) return false
  const found = await Promise.all(
    [
      ['qemu-system-x86_64', '--version'],
      ['apt-get', '--version'],
      ['ssh', '-V'],
    ].map(argv =>
      run(argv).then(
        () => true,
        () => false,
      ),
    ),
  )
  return found.every(Boolean)
}

test('a guest on a tap', { skip: (await able()) ? false : 'needs root, qemu-system-x86_64, apt-get and ssh' }, async t => {
  const image = await guestEnsure(process.env.NUBO_GUEST_CACHE ?? join(tmpdir(), `nubo-guest-cache-${process.getuid?.()}`))
  const folder = mkdtempSync(join(tmpdir(), 'nubo-tap-'))
  chmodSync(folder, 0o755)
  t.after(() => rmSync(folder, { recursive: true }))
  const key = join(folder, 'key')
  await run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', key])

  const asked: string[] = []
  const host = await testHost(t, 'qemu', {
    physicalNetworks: { public: { kind: 'own', bridge: 'br-ex' } },
    metadata: async (guest, request) => {
      asked.push(`${guest.ip} ${request.path}`)
      const document = { uuid: guest.deviceId, hostname: 'web', public_keys: { mine: readFileSync(`${key}.pub`, 'utf8').trim() } }
      if (request.path.endsWith('/meta_data.json')) return { status: 200, body: JSON.stringify(document) }
      return { status: 404, body: 'none' }
    },
  })
  const publicNet = testNetwork([testSubnet('172.24.4.0/24', { gatewayIp: '172.24.4.1', enableDhcp: false })], {
    type: 'flat',
    physicalNetwork: 'public',
  })
  const network = testNetwork([testSubnet('10.1.0.0/24', { gatewayIp: '10.1.0.1', routed: true })])
  const group = '66666666-6666-4666-8666-666666666666'
  const port = testPort(network, ['10.1.0.5'], { securityGroups: [group] })
  const peer = testPort(network, ['10.1.0.6'], { securityGroups: [group] })
  const server = testPort(network, ['10.1.0.2'], { deviceOwner: 'network:dhcp' })
  const leg = testPort(network, ['10.1.0.1'], { deviceOwner: 'network:router_interface' })
  const gate = testPort(publicNet, ['172.24.4.10'], { deviceOwner: 'network:router_gateway' })
  const address = (one: typeof port) => one.fixedIps.map(fixed => ({ ...fixed, prefixLength: 24 }))
  const knownGuest = { portId: port.id, deviceId: port.deviceId }
  const router = testRouter({
    interfaces: [{ portId: leg.id, networkId: network.id, addresses: address(leg) }],
    gateway: { portId: gate.id, networkId: publicNet.id, addresses: address(gate), gatewayIps: ['172.24.4.1'], enableSnat: true },
    floatingIps: [{ id: 'f', floating: '172.24.4.50', fixed: '10.1.0.5' }],
    metadata: [{ ...knownGuest, ip: '10.1.0.5', networkId: network.id }],
  })
  const hosts = [{ ...knownGuest, mac: port.mac, hostname: 'web', fixedIps: port.fixedIps, options: [] }]
  const dhcp = { portId: server.id, domain: 'example.test', metadata: true, forwarders: [], hosts }
  const state = (rules: DesiredRule[]): NetDesired =>
    testDesired({
      networks: [{ ...network, dhcp }, publicNet],
      ports: [port, peer, server, leg, gate],
      routers: [router],
      securityGroups: [{ id: group, stateful: true, rules }],
    })
  const apply = async (rules: DesiredRule[]) => assert.deepEqual((await host.driver.apply(state(rules))).errors, [])
  const egress = testRule('egress')
  await apply([egress])

  // The tap appears as nova makes it: owned by the guest's user. The monitor tells, the driver wires.
  let appeared = () => {}
  const seen = new Promise<void>(resolve => (appeared = resolve))
  await host.driver.watch((tap, there) => there && tap === tapName(port.id) && appeared())
  await batch({ netns: host.netns }, [['tuntap', 'add', 'dev', tapName(port.id), 'mode', 'tap', 'user', NOBODY]])
  await seen
  assert.deepEqual(await host.driver.wire([tapName(port.id)]), [{ id: port.id, status: 'ACTIVE' }])
  const gp = await host.guest(peer, network)
  await host.driver.wire([tapName(peer.id)])

  const disk = join(folder, 'disk.qcow2')
  const kernel = join(folder, 'vmlinuz')
  const initrd = join(folder, 'initrd.img')
  for (const [from, to] of [
    [image.image, `${disk}.base`],
    [image.kernel, kernel],
    [image.initrd, initrd],
  ] as const)
    await run(['cp', from, to])
  await run(['qemu-img', 'create', '-q', '-f', 'qcow2', '-b', `${disk}.base`, '-F', 'qcow2', disk])
  chownSync(disk, NOBODY, NOBODY)
  const console_: string[] = []
  let ready = () => {}
  const isReady = new Promise<void>(resolve => (ready = resolve))
  const qemu = await follow(
    [
      'qemu-system-x86_64',
      '-nodefaults',
      '-no-user-config',
      '-display',
      'none',
      '-machine',
      'q35,accel=tcg',
      '-cpu',
      'max',
      '-m',
      '256',
      '-kernel',
      kernel,
      '-initrd',
      initrd,
      '-append',
      image.commandLine,
      '-drive',
      `if=virtio,file=${disk},format=qcow2`,
      '-netdev',
      `tap,id=n0,ifname=${tapName(port.id)},script=no,downscript=no,vhost=off`,
      '-device',
      `virtio-net-pci,netdev=n0,mac=${port.mac}`,
      '-chardev',
      'stdio,id=c0,signal=off',
      '-serial',
      'chardev:c0',
      '-sandbox',
      'on',
    ],
    line => {
      console_.push(line)
      if (/login:|: ready/.test(line)) ready()
    },
    { netns: host.netns, uid: NOBODY },
  )
  t.after(() => qemu.stop())
  const late = AbortSignal.timeout(120_000)
  await Promise.race([
    isReady,
    qemu.ended.then(({ stderr }) => assert.fail(`qemu ended: ${stderr}`)),
    new Promise((_, reject) =>
      late.addEventListener('abort', () => reject(new Error(`not ready:\n${console_.slice(-40).join('\n')}`))),
    ),
  ])
  assert.ok(
    asked.some(one => one === '10.1.0.5 /openstack/latest/meta_data.json'),
    `metadata was asked for by the right address: ${asked}`,
  )

  const outside = testGuest(t, host.netns)
  assert.equal(await outside.ping('172.24.4.50', BRIEFLY), false, 'nothing in by default')
  assert.equal(await gp.ping('10.1.0.5', BRIEFLY), false)
  const ssh = testRule('ingress', { protocol: 6, portMin: 22, portMax: 22 })
  await apply([egress, testRule('ingress', { protocol: 1 }), ssh])
  assert.equal(await outside.ping('172.24.4.50'), true, 'in by the floating address')
  assert.equal(await gp.ping('10.1.0.5'), true, 'from another guest')
  const login = [
    'ssh',
    '-i',
    key,
    '-o',
    'StrictHostKeyChecking=no',
    '-o',
    'UserKnownHostsFile=/dev/null',
    '-o',
    'BatchMode=yes',
    'guest@172.24.4.50',
  ]
  const inGuest = async (command: string, codes = [0]) =>
    (await run([...login, command], { netns: host.netns, timeoutMs: 60_000, codes })).stdout.trim()
  assert.equal(await inGuest('hostname'), 'web', 'the key and the host name came by metadata')
  const [addresses, mtu] = [await inGuest('ip -4 addr show dev eth0'), await inGuest('cat /sys/class/net/eth0/mtu')]
  assert.match(addresses, /inet 10\.1\.0\.5\/24/)
  assert.equal(mtu, '1450')
  await inGuest('sudo ping -c 1 -w 3 172.24.4.1')

  // What a guest sends under an address that is not its own goes nowhere, neither IP nor ARP; nor does it reach the host by its bridge.
  await run(['conntrack', '-F'], { netns: host.netns })
  await inGuest('sudo ip addr add 10.1.0.77/24 dev eth0')
  await apply([egress, testRule('ingress'), ssh])
  await inGuest('sudo ping -c 1 -w 3 10.1.0.6')
  await inGuest('sudo ping -c 1 -w 2 -I 10.1.0.77 10.1.0.6', [1])
  assert.equal((await gp.run(['arping', '-c', '1', '-w', '1', '-I', 'eth0', '10.1.0.77'], [0, 1])).code, 1)

  // No way out without an egress rule; what was under way is cut.
  await apply([testRule('ingress')])
  await inGuest('true')
  await apply([ssh])
  await inGuest('sudo ping -c 1 -w 2 172.24.4.1', [1])
  await apply([])
  assert.equal(await outside.connects('172.24.4.50', 22), false)
})
