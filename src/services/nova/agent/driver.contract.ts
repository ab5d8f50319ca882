/** What every compute driver must do: run by memory.test.ts and qemu.test.ts on the same small guest (testguest.ts). */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { after, before, describe, test } from 'node:test'
import { Fault } from '#kit/fault.ts'
import type { Guest, GuestSpec, ImageRef, Nic } from '../spec.ts'
import type { ComputeDriver } from './driver.ts'

/** A host to test on. It outlives the drivers that are opened over it. */
export interface Place {
  /** A driver over this host, not yet open. */
  driver(): ComputeDriver
  image: ImageRef
  /** Makes the guest power itself off from inside. */
  shutItself(driver: ComputeDriver, id: string): Promise<void>
  /** What is on the host of any guest: processes, files, groups, taps. */
  residue(): Promise<string[]>
  /** Holds back what `ensure` of a new image waits for, until the function it gives is called. */
  stall(): { image: ImageRef; release(): void }
  close(): Promise<void>
}

export const nicOf = (n = 1): Nic => {
  const portId = randomUUID()
  return { portId, tap: `tap${portId.slice(0, 11)}`, mac: `fa:16:3e:00:00:0${n}`, mtu: 1450, model: 'virtio' }
}

export function specOf(image: ImageRef, over: Partial<GuestSpec> = {}): GuestSpec {
  return {
    id: randomUUID(),
    revision: 1,
    name: 'contract',
    power: 'running',
    vcpus: 1,
    memoryMb: 64,
    disks: [{ kind: 'image', name: 'root', bus: 'virtio', bootIndex: 0, image, sizeGb: 1 }],
    nics: [nicOf()],
    configDrive: {
      format: 'iso9660',
      bus: 'virtio',
      files: { 'openstack/latest/meta_data.json': Buffer.from('{}').toString('base64') },
    },
    shutdownTimeout: 10,
    ...over,
  }
}

/** Waits until `look` gives something. */
export async function until<T>(look: () => Promise<T | undefined | false>, what: string, ms = 20_000): Promise<T> {
  for (const end = performance.now() + ms; ; ) {
    const found = await look()
    if (found) return found
    if (performance.now() > end) assert.fail(`not within ${ms} ms: ${what}`)
    await new Promise(resolve => setTimeout(resolve, 20))
  }
}

export const booted = (driver: ComputeDriver, id: string, times: number): Promise<boolean> =>
  until(async () => (await driver.consoleOutput(id)).includes(`boot ${times}\r\nready`), `boot ${times} of ${id}`)

const kind = (expected: string) => (error: unknown) => {
  assert.ok(error instanceof Fault, `a Fault, not ${error}`)
  assert.equal(error.kind, expected)
  return true
}

export function driverContract(name: string, make: () => Promise<Place>): void {
  describe(`driver contract: ${name}`, () => {
    let place: Place
    let driver: ComputeDriver
    before(async () => {
      place = await make()
      driver = place.driver()
      await driver.open()
    })
    after(async () => {
      await driver.ensure(specOf(place.image))
      for (const guest of await driver.list()) await driver.destroy(guest.id)
      const left = await place.residue()
      await driver.ensure(specOf(place.image))
      await driver.wipe()
      const wiped = await place.residue()
      await driver.close()
      await place.close()
      assert.deepEqual([left, wiped], [[], []], 'nothing of any guest is left')
    })
    const ensured = async (over: Partial<GuestSpec> = {}) => {
      const spec = specOf(place.image, over)
      await driver.ensure(spec)
      return spec
    }

    test('ensure creates and starts; again changes nothing; destroy leaves nothing', async () => {
      const seen: Guest[] = []
      const stop = driver.watch(guest => seen.push(guest))
      const spec = specOf(place.image)
      const guest = await driver.ensure(spec)
      assert.equal(guest.power, 'running')
      assert.equal(guest.wanted, 'running')
      assert.equal(guest.revision, 1)
      assert.equal(guest.reason, undefined)
      await booted(driver, spec.id, 1)
      assert.deepEqual(await driver.ensure(spec), guest)
      assert.deepEqual(await driver.inspect(spec.id), guest)
      assert.ok((await driver.list()).some(g => g.id === spec.id))
      const things = await driver.things()
      assert.ok(things.length > 0 && things.every(thing => thing.wanted && thing.guest === spec.id), JSON.stringify(things))
      assert.equal(await driver.consoleOutput(spec.id, 1), 'ready\r\n')
      assert.equal(await driver.consoleOutput(spec.id, 0), '')
      assert.deepEqual(
        seen.map(g => g.power),
        ['running'],
      )
      await driver.destroy(spec.id)
      assert.equal(await driver.inspect(spec.id), null)
      await driver.destroy(spec.id)
      assert.deepEqual(await place.residue(), [])
      assert.deepEqual(await driver.things(), [])
      stop()
    })

    test('what is not here is not found', async () => {
      const id = randomUUID()
      for (const verb of [
        () => driver.power(id, 'off'),
        () => driver.reboot(id, 'hard'),
        () => driver.consoleOutput(id),
        () => driver.attachNic(id, nicOf()),
        () => driver.snapshot(id, 'root'),
        () => driver.console(id, 'vnc'),
        () => driver.diagnostics(id),
      ])
        await assert.rejects(verb, kind('notFound'))
      await assert.rejects(driver.ensure(specOf(place.image, { id: '../../etc' })), kind('badRequest'))
      await assert.rejects(driver.ensure(specOf(place.image, { machine: 'virt,foo=bar' })), kind('badRequest'))
    })

    test('stop, start, pause, suspend, resume, reboot: each twice is once', async () => {
      const spec = await ensured()
      await booted(driver, spec.id, 1)
      const to = async (power: 'running' | 'off' | 'paused' | 'suspended') => {
        assert.equal((await driver.power(spec.id, power)).power, power)
        assert.equal((await driver.power(spec.id, power)).power, power)
      }
      await to('off')
      await assert.rejects(driver.power(spec.id, 'paused'), kind('conflict'))
      await assert.rejects(driver.power(spec.id, 'suspended'), kind('conflict'))
      await assert.rejects(driver.console(spec.id, 'serial'), kind('conflict'))
      await to('running')
      await booted(driver, spec.id, 2)
      await to('paused')
      await to('running')
      await to('suspended')
      await to('running')
      assert.ok(!(await driver.consoleOutput(spec.id)).includes('boot 3'), 'suspend keeps what the guest was doing')
      await driver.reboot(spec.id, 'soft')
      await booted(driver, spec.id, 3)
      await driver.reboot(spec.id, 'hard')
      await booted(driver, spec.id, 4)
      await driver.destroy(spec.id)
    })

    test('a guest wanted off is made and not started; an older revision is refused', async () => {
      const spec = await ensured({ power: 'off', revision: 5 })
      assert.equal((await driver.inspect(spec.id))?.power, 'off')
      assert.equal(await driver.consoleOutput(spec.id), '')
      await assert.rejects(driver.ensure({ ...spec, revision: 4 }), kind('conflict'))
      assert.equal((await driver.ensure({ ...spec, revision: 6, power: 'running' })).power, 'running')
      await booted(driver, spec.id, 1)
      await driver.destroy(spec.id)
    })

    test('a guest that shuts itself down is off, and wanted off', async () => {
      const spec = await ensured()
      await booted(driver, spec.id, 1)
      const gone = new Promise<Guest>(resolve => {
        const stop = driver.watch(guest => {
          if (guest.id !== spec.id || guest.power !== 'off') return
          stop()
          resolve(guest)
        })
      })
      await place.shutItself(driver, spec.id)
      const guest = await gone
      assert.equal(guest.wanted, 'off')
      assert.match(guest.reason ?? '', /shut itself down/)
      assert.equal((await driver.power(spec.id, 'running')).reason, undefined)
      await booted(driver, spec.id, 2)
      await driver.destroy(spec.id)
    })

    test('guests outlive the agent', async () => {
      const spec = await ensured()
      const off = await ensured({ power: 'off' })
      const asleep = await ensured()
      await driver.power(asleep.id, 'suspended')
      await booted(driver, spec.id, 1)
      const since = (await driver.inspect(spec.id))?.since
      await driver.close()
      driver = place.driver()
      await driver.open()
      await until(async () => (await driver.list()).length === 3, 'all three are known')
      assert.equal((await driver.power(spec.id, 'running')).since, since)
      assert.equal((await driver.inspect(off.id))?.power, 'off')
      assert.equal((await driver.inspect(asleep.id))?.power, 'suspended')
      assert.equal((await driver.power(asleep.id, 'running')).power, 'running')
      assert.ok(!(await driver.consoleOutput(spec.id)).includes('boot 2'))
      for (const { id } of [spec, off, asleep]) await driver.destroy(id)
    })

    test('nics and disks come and go', async () => {
      const spec = await ensured()
      await booted(driver, spec.id, 1)
      const nic = nicOf(2)
      const disk = { kind: 'blank', name: 'ephemeral0', bus: 'virtio', sizeGb: 1, filesystem: 'none' } as const
      for (let twice = 0; twice < 2; twice++) {
        await driver.attachNic(spec.id, nic)
        await driver.attachDisk(spec.id, disk)
      }
      await driver.resizeDisk(spec.id, 'ephemeral0', 2 * 2 ** 30)
      const { disks, nics, cpus } = await driver.diagnostics(spec.id)
      assert.deepEqual(
        nics.map(n => n.mac),
        [spec.nics[0]?.mac, nic.mac],
      )
      assert.equal(disks.length, 2)
      assert.equal(cpus.length, 1)
      await assert.rejects(driver.resizeDisk(spec.id, 'none', 1), kind('notFound'))
      await driver.power(spec.id, 'off', { timeout: 0 })
      for (let twice = 0; twice < 2; twice++) {
        await driver.detachNic(spec.id, nic.portId)
        await driver.detachDisk(spec.id, 'ephemeral0')
      }
      await driver.power(spec.id, 'running')
      assert.equal((await driver.diagnostics(spec.id)).nics.length, 1)
      await driver.destroy(spec.id)
    })

    test('a snapshot is a whole image, of a running and of a stopped guest', async () => {
      const spec = await ensured()
      await booted(driver, spec.id, 1)
      for (const power of ['running', 'off'] as const) {
        await driver.power(spec.id, power)
        const shot = await driver.snapshot(spec.id, 'root')
        const parts: Uint8Array[] = []
        for await (const part of shot.stream) parts.push(part)
        await shot.close()
        const bytes = Buffer.concat(parts)
        assert.equal(bytes.length, shot.size)
        assert.equal(bytes.subarray(0, 4).toString('latin1'), 'QFI\xfb')
        assert.equal(bytes.readBigUInt64BE(8), 0n, 'it has no backing file')
        assert.equal(bytes.readBigUInt64BE(24), BigInt(shot.virtualSize))
        assert.equal(shot.virtualSize, 2 ** 30)
      }
      await driver.destroy(spec.id)
    })

    test('rescue boots another disk and unrescue the old one', async () => {
      const spec = await ensured()
      await booted(driver, spec.id, 1)
      const guest = await driver.rescue(spec.id, { image: place.image, bus: 'virtio' })
      assert.equal(guest.rescued, true)
      assert.equal(guest.power, 'running')
      const back = await driver.unrescue(spec.id)
      assert.equal(back.rescued, undefined)
      assert.equal((await driver.unrescue(spec.id)).power, 'running')
      await booted(driver, spec.id, 2)
      await driver.destroy(spec.id)
    })

    test('the graphical console speaks RFB, the serial port answers', async () => {
      const spec = await ensured()
      await booted(driver, spec.id, 1)
      const screen = await driver.console(spec.id, 'vnc')
      const [greeting] = await once(screen, 'data')
      assert.match(String(greeting), /^RFB 003\.00\d\n$/)
      screen.destroy()
      const port = await driver.console(spec.id, 'serial')
      port.write('x')
      const [echo] = await once(port, 'data')
      assert.equal(String(echo), 'x')
      port.destroy()
      await driver.destroy(spec.id)
      const blind = await ensured({ video: 'none' })
      await assert.rejects(driver.console(blind.id, 'vnc'), kind('conflict'))
      await driver.destroy(blind.id)
    })

    test('a destroy interrupts what is under way', async () => {
      const { image, release } = place.stall()
      const spec = specOf(image)
      const making = assert.rejects(driver.ensure(spec), kind('conflict'))
      await until(async () => await driver.inspect(spec.id), 'the guest is known')
      const queuedToo = assert.rejects(driver.power(spec.id, 'off'), kind('conflict'))
      await driver.destroy(spec.id)
      await Promise.all([making, queuedToo])
      release()
      assert.equal(await driver.inspect(spec.id), null)
    })

    test('the caller may give up, and ask again', async () => {
      const { image, release } = place.stall()
      const spec = specOf(image)
      const stop = new AbortController()
      const making = driver.ensure(spec, { signal: stop.signal })
      stop.abort(new Error('enough'))
      await assert.rejects(making, /enough/)
      release()
      assert.equal((await driver.ensure(spec)).power, 'running')
      await driver.destroy(spec.id)
    })

    test('the same guest ensured at once is one guest', async () => {
      const spec = specOf(place.image)
      const guests = await Promise.all([driver.ensure(spec), driver.ensure(spec), driver.ensure(spec)])
      assert.ok(guests.every(guest => guest.power === 'running'))
      await booted(driver, spec.id, 1)
      assert.ok(!(await driver.consoleOutput(spec.id)).includes('boot 2'))
      await driver.destroy(spec.id)
    })

    test('the host is told of by its numbers', async () => {
      const inventory = await driver.inventory()
      assert.ok(inventory.vcpus > 0 && inventory.memoryMb > 0 && inventory.diskGb > 0)
      assert.ok(inventory.hypervisorVersion > 1000)
      assert.ok(inventory.traits.includes('COMPUTE_NODE'))
      assert.ok(inventory.traits.every(trait => /^[A-Z0-9_]+$/.test(trait)))
    })
  })
}
