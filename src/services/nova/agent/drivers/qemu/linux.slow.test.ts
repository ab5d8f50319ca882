// What takes a real operating system in the guest: letting go of devices, the power button, the guest agent, UEFI. The image is Nubo's own.
import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import type { GuestSpec, ImageRef } from '../../../spec.ts'
import { nicOf, specOf, until } from '../../driver.contract.ts'
import type { ComputeDriver } from '../../driver.ts'
import { testGuestImage } from '../../testguest.ts'
import { qemuPlace, unable } from './testing.ts'

const cache = process.env.NUBO_GUEST_CACHE ?? join(tmpdir(), `nubo-guest-cache-${process.getuid?.()}`)
const text = (value: string) => Buffer.from(value).toString('base64')

describe('a real system in the guest', { skip: unable() }, () => {
  let place: Awaited<ReturnType<typeof qemuPlace>>
  let driver: ComputeDriver
  let image: ImageRef
  let kernel: GuestSpec['kernel']

  before(async () => {
    // Built outside of src: the whole program may use it, this service's tests only borrow it.
    const { guestEnsure } = await import(new URL('../../../../../../guest/build.ts', import.meta.url).href)
    const guest = (await guestEnsure(cache)) as { image: string; kernel: string; initrd: string; commandLine: string }
    place = await qemuPlace()
    const add = async (id: string, path: string, format: ImageRef['format']) => {
      const bytes = await readFile(path)
      place.images.set(id, bytes)
      return { ...testGuestImage(id, bytes), format }
    }
    image = await add('guest', guest.image, 'qcow2')
    kernel = {
      kernel: await add('kernel', guest.kernel, 'aki'),
      ramdisk: await add('ramdisk', guest.initrd, 'ari'),
      commandLine: guest.commandLine,
    }
    driver = place.driver()
    await driver.open()
  })
  after(async () => {
    for (const guest of await driver.list()) await driver.destroy(guest.id)
    const left = await place.residue()
    await driver.close()
    await place.close()
    assert.deepEqual(left, [])
  })

  const metadata = { uuid: 'f00d', hostname: 'web', public_keys: {} }
  const start = async (over: Partial<GuestSpec>) => {
    const spec = specOf(image, {
      memoryMb: 256,
      nics: [],
      configDrive: {
        format: 'vfat',
        bus: 'virtio',
        files: { 'openstack/latest/meta_data.json': text(JSON.stringify(metadata)) },
      },
      shutdownTimeout: 60,
      ...over,
    })
    await driver.ensure(spec)
    await said(spec.id, /web login:/, 120_000)
    return spec
  }
  const said = (id: string, what: RegExp, ms = 30_000) =>
    until(async () => what.test(await driver.consoleOutput(id)), `${what} on the console`, ms)

  test('devices come and go, the agent answers, the power button is heard', { timeout: 240_000 }, async t => {
    const spec = await start({ kernel })
    const nic = nicOf(3)
    const disk = { kind: 'blank', name: 'ephemeral0', bus: 'virtio', sizeGb: 1, filesystem: 'ext4' } as const
    const scsi = { kind: 'blank', name: 'scsi-disk', bus: 'scsi', sizeGb: 1, limits: { totalIops: 100 } } as const
    await driver.attachNic(spec.id, nic)
    await driver.attachDisk(spec.id, disk)
    await driver.attachDisk(spec.id, scsi)
    await driver.resizeDisk(spec.id, 'scsi-disk', 2 * 2 ** 30)
    const began = performance.now()
    await driver.detachNic(spec.id, nic.portId)
    await driver.detachDisk(spec.id, 'ephemeral0')
    await driver.detachDisk(spec.id, 'scsi-disk')
    t.diagnostic(`three devices let go in ${Math.round(performance.now() - began)} ms`)
    const { nics, disks } = await driver.diagnostics(spec.id)
    assert.deepEqual([nics.length, disks.length], [0, 1])
    // The place and the name are free again.
    await driver.attachDisk(spec.id, disk)

    await driver.setPassword(spec.id, 'guest', 'a new secret')
    await assert.rejects(driver.setPassword(spec.id, 'nobody-of-this-name', 'x'), /guest agent/i)
    await driver.quiesce(spec.id)
    await driver.unquiesce(spec.id)
    const shot = await driver.snapshot(spec.id, 'root', { quiesce: true })
    assert.ok(shot.size > 10_000_000)
    await shot.close()
    await driver.injectNmi(spec.id)

    const stopping = performance.now()
    assert.equal((await driver.power(spec.id, 'off')).power, 'off')
    t.diagnostic(`stopped in ${Math.round(performance.now() - stopping)} ms`)
    assert.match(await driver.consoleOutput(spec.id, 10), /Power down|System halted|going down/i)
    await driver.destroy(spec.id)
  })

  test('UEFI', { timeout: 240_000 }, async () => {
    const spec = await start({ firmware: 'uefi' })
    assert.equal((await driver.reboot(spec.id, 'hard')).power, 'running')
    await driver.destroy(spec.id)
  })

  test('as pc, with a scsi root disk, in two parts of a processor', { timeout: 240_000 }, async () => {
    const disks: GuestSpec['disks'] = [{ kind: 'image', name: 'root', bus: 'scsi', bootIndex: 0, image, sizeGb: 1 }]
    const spec = await start({
      machine: 'pc',
      disks,
      kernel,
      vcpus: 2,
      cpuLimits: { quotaUs: 50_000, periodUs: 100_000, shares: 512 },
    })
    await driver.destroy(spec.id)
  })
})
