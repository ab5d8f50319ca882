import assert from 'node:assert/strict'
import { test } from 'node:test'
import { argv, assignSlots, family, MAX_SLOTS, type Machine, place, rootPorts, slotUsers } from './argv.ts'
import { blockNodes, diskDevice, diskKey, netdev, nicDevice, throttleGroup, topNode } from './devices.ts'

const VOLUME = '3f0c8e1a-95b1-4a53-8f0e-7a7f5ce1d001'

function machine(over: Partial<Machine> = {}): Machine {
  const m: Machine = {
    binary: 'qemu-system-x86_64',
    name: 'web, one',
    uuid: '11111111-2222-4333-8444-555555555555',
    accel: 'tcg',
    type: 'q35',
    memoryMb: 256,
    vcpus: 2,
    firmware: { type: 'bios' },
    disks: [{ name: 'root', source: { type: 'file', path: '/g/root.qcow2', format: 'qcow2' }, bus: 'virtio', bootIndex: 0 }],
    nics: [{ id: 'p1', tap: 'tapabc', mac: 'fa:16:3e:00:00:01', mtu: 1450, model: 'virtio' }],
    slots: {},
    guestAgent: true,
    video: 'vga',
    serialPorts: 1,
    clock: 'utc',
    sockets: { qmp: '/r/qmp', vnc: '/r/vnc', serial: '/r/serial', agent: '/r/agent' },
    consoleLog: '/g/console.log',
    ...over,
  }
  return { ...m, slots: assignSlots(slotUsers(m), m.slots, MAX_SLOTS[family(m.type)]) }
}

/** The values of an option, JSON ones parsed. */
function values(list: string[], option: string): (string | Record<string, unknown>)[] {
  return list.flatMap((word, i) => (list[i - 1] === option ? [word.startsWith('{') ? JSON.parse(word) : word] : []))
}
const devices = (list: string[]) => values(list, '-device') as Record<string, unknown>[]
const deviceOf = (list: string[], id: string) => devices(list).find(d => d.id === id)

test('every guest is confined, starts stopped, stays when it powers off', () => {
  const list = argv(machine())
  for (const word of ['-no-user-config', '-nodefaults', '-S', '-no-shutdown']) assert.ok(list.includes(word), word)
  assert.deepEqual(values(list, '-sandbox'), ['on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny'])
  assert.deepEqual(values(list, '-name'), ['guest=web,, one,debug-threads=on'])
  assert.match(String(values(list, '-smbios')[0]), /product=OpenStack Nova,.*uuid=11111111/)
})

test('disks and nics sit on root ports of their own', () => {
  const list = argv(machine())
  assert.deepEqual(deviceOf(list, 'nic-p1'), {
    driver: 'virtio-net-pci',
    id: 'nic-p1',
    netdev: 'net-p1',
    mac: 'fa:16:3e:00:00:01',
    bus: 'rp0',
    host_mtu: 1450,
  })
  assert.deepEqual(deviceOf(list, 'disk-root'), {
    driver: 'virtio-blk-pci',
    id: 'disk-root',
    drive: 'n-root',
    bootindex: 0,
    bus: 'rp1',
  })
  const ports = devices(list).filter(d => d.driver === 'pcie-root-port')
  assert.equal(ports.length, 16)
  assert.equal(new Set(ports.map(p => p.addr)).size, 16)
  assert.equal(ports.filter(p => p.multifunction).length, 2)
})

test('pc has slots of pci.0 and no root ports', () => {
  const list = argv(machine({ type: 'pc-i440fx-7.2' }))
  assert.equal(devices(list).filter(d => d.driver === 'pcie-root-port').length, 0)
  assert.equal(deviceOf(list, 'nic-p1')?.bus, 'pci.0')
  assert.equal(deviceOf(list, 'nic-p1')?.addr, '0x5')
  assert.ok(!String(values(list, '-machine')[0]).includes('smm'))
})

test('a device keeps its place when another goes, and new ones fill the gap', () => {
  const slots = assignSlots(['a', 'b', 'c'], {}, 4)
  assert.deepEqual(slots, { a: 0, b: 1, c: 2 })
  assert.deepEqual(assignSlots(['b', 'c', 'd'], slots, 4), { b: 1, c: 2, d: 0 })
  assert.throws(() => assignSlots(['a', 'b', 'c'], {}, 2), /no free PCI slot/)
  assert.deepEqual(place('q35', 3), { bus: 'rp3' })
  assert.equal(rootPorts({}), 8)
  assert.equal(rootPorts({ a: 31 }), 32)
})

test('limits put a throttle filter between device and disk', () => {
  const disk = {
    name: VOLUME,
    source: { type: 'nbd', socket: '/s', export: 'e' },
    bus: 'virtio',
    serial: VOLUME,
    throttle: { readIops: 10, totalBytes: 0 },
  } as const
  const key = diskKey(VOLUME)
  assert.match(key, /^v[0-9a-f]{16}$/)
  assert.deepEqual(throttleGroup(disk), { 'qom-type': 'throttle-group', id: `tg-${key}`, limits: { 'iops-read': 10 } })
  const nodes = blockNodes(disk)
  assert.deepEqual(
    nodes.map(n => n['node-name']),
    [`f-${key}`, `n-${key}`, `t-${key}`],
  )
  assert.ok(nodes.every(n => String(n['node-name']).length <= 31))
  assert.equal(topNode(disk), `t-${key}`)
  const device = diskDevice(disk, { bus: 'rp2' }, 0, 'q35')
  assert.equal(device.drive, `t-${key}`)
  assert.equal(String(device.serial).length, 20)
})

test('a disk without limits has no filter', () => {
  const disk = { name: 'root', source: { type: 'file', path: '/x', format: 'raw' }, bus: 'virtio', throttle: {} } as const
  assert.equal(throttleGroup(disk), undefined)
  assert.equal(topNode(disk), 'n-root')
})

test('cdroms, ide units and the scsi controller', () => {
  const file = (path: string) => ({ type: 'file', path, format: 'raw' }) as const
  const list = argv(
    machine({
      disks: [
        { name: 'root', source: file('/a'), bus: 'sata' },
        { name: 'cd', source: file('/b'), bus: 'sata', cdrom: true },
        { name: 'scd', source: file('/c'), bus: 'scsi', cdrom: true },
      ],
    }),
  )
  assert.equal(deviceOf(list, 'disk-root')?.bus, 'ide.0')
  assert.equal(deviceOf(list, 'disk-cd')?.bus, 'ide.1')
  assert.equal(deviceOf(list, 'disk-cd')?.driver, 'ide-cd')
  assert.equal(deviceOf(list, 'disk-scd')?.driver, 'scsi-cd')
  assert.ok(deviceOf(list, 'scsi0'))
  const node = (values(list, '-blockdev') as Record<string, unknown>[]).find(n => n['node-name'] === 'n-cd')
  assert.equal(node?.['read-only'], true)
})

test('UEFI, direct kernel, incoming state, KVM', () => {
  const list = argv(
    machine({
      accel: 'kvm',
      firmware: { type: 'uefi', code: '/fw/code', vars: '/g/vars', secure: true },
      kernel: { path: '/k', initrd: '/i', append: 'console=ttyS0 root=/dev/vda' },
      incoming: true,
      hideHypervisor: true,
    }),
  )
  assert.match(String(values(list, '-machine')[0]), /smm=on.*pflash0=fw-code,pflash1=fw-vars/)
  assert.deepEqual(values(list, '-kernel'), ['/k'])
  assert.deepEqual(values(list, '-append'), ['console=ttyS0 root=/dev/vda'])
  assert.deepEqual(values(list, '-incoming'), ['defer'])
  assert.deepEqual(values(list, '-cpu'), ['host,kvm=off,hypervisor=off'])
  assert.deepEqual(values(list, '-accel'), ['kvm'])
})

test('more queues need more vectors; other models cannot be told the MTU', () => {
  const nic = { id: 'p', tap: 't', mac: 'm', mtu: 1500, model: 'virtio', queues: 4 } as const
  assert.equal(netdev(nic).queues, 4)
  assert.deepEqual(nicDevice(nic, { bus: 'rp0' }).vectors, 10)
  assert.equal(nicDevice({ ...nic, model: 'e1000' }, { bus: 'rp0' }).host_mtu, undefined)
})
