import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { GuestSpec } from '../../../spec.ts'
import { nicOf, specOf } from '../../driver.contract.ts'
import { testGuestImage } from '../../testguest.ts'
import { groupLimits, type Made, machineDisks, machineOf } from './machine.ts'
import { guestStore } from './store.ts'

const image = testGuestImage('tiny')
const file = (path: string) => ({ type: 'file', path, format: 'qcow2' }) as const
const made: Made = { sources: { root: file('/g/root.qcow2'), e: file('/g/e.raw') }, configDrive: '/g/config.img' }
const blank = { kind: 'blank', name: 'e', bus: 'virtio', sizeGb: 1 } as const
const spec = (over: Partial<GuestSpec> = {}): GuestSpec => {
  const base = specOf(image)
  return { ...base, disks: [...base.disks, blank], ...over }
}
const names = (s: GuestSpec, m: Made = made) => machineDisks(s, m).map(d => `${d.name}${d.bootIndex === 0 ? '*' : ''}`)

test('disks in the order in which a guest finds them, in ordinary times and in rescue', () => {
  assert.deepEqual(names(spec()), ['root*', 'e', 'config-drive'])
  const rescued = { ...made, rescue: file('/g/rescue.qcow2') }
  assert.deepEqual(names(spec({ rescue: { image, bus: 'virtio' } }), rescued), ['rescue*', 'root', 'config-drive'])
  assert.deepEqual(names(spec({ rescue: { image, bus: 'virtio', stable: true } }), rescued), [
    'root',
    'e',
    'config-drive',
    'rescue*',
  ])
  assert.deepEqual(
    names(spec(), { ...made, kernel: { path: '/k' } }),
    ['root', 'e', 'config-drive'],
    "a kernel of its own boots first, qemu's way",
  )
})

test('a cdrom is one where the bus has any, else a disk that cannot be written', () => {
  const [drive] = machineDisks(spec(), made).slice(-1)
  assert.deepEqual([drive?.cdrom, drive?.readOnly], [false, true])
  const scsi = spec()
  scsi.configDrive = { ...scsi.configDrive!, bus: 'scsi' }
  assert.equal(machineDisks(scsi, made).at(-1)?.cdrom, true)
})

test('a kernel without a command line gets the root disk by its bus', () => {
  const { paths } = guestStore({ folder: '/g', runFolder: '/r', uids: [1, 1] })
  const s = spec({ kernel: { kernel: image } })
  const host = { binary: 'q', accel: 'tcg', paths: paths(s.id), kept: {}, incoming: false } as const
  const machine = (g: GuestSpec) => machineOf(g, { ...made, kernel: { path: '/k' } }, host)
  assert.match(machine(s).kernel?.append ?? '', /root=\/dev\/vda/)
  const scsi = { ...s, disks: s.disks.map(d => ({ ...d, bus: 'scsi' as const })) }
  assert.match(machine(scsi).kernel?.append ?? '', /root=\/dev\/sda/)
  const many = { ...s, nics: Array.from({ length: 33 }, () => nicOf()) }
  assert.throws(() => machine(many), /no free PCI slot/)
})

test("nova's quota is per processor, the group's is for all", () => {
  const limits = groupLimits(spec({ vcpus: 4, cpuLimits: { quotaUs: 10_000, periodUs: 20_000, shares: 99 } }), 'kvm')
  assert.deepEqual(limits.cpuQuota, { quotaUs: 40_000, periodUs: 20_000 })
  assert.equal(limits.cpuShares, 99)
  assert.ok((limits.memoryBytes ?? 0) > 64 << 20)
  assert.equal(groupLimits(spec(), 'tcg').cpuQuota, undefined)
})

test('what is not a UUID reaches no path', () => {
  const { paths } = guestStore({ folder: '/g', runFolder: '/r', uids: [1, 1] })
  assert.throws(() => paths('..'), /not the id of a guest/)
})
