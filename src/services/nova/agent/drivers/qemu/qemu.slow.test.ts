// The contract on real guests under TCG. Needs root and the host's programs; skipped without.
import assert from 'node:assert/strict'
import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { parsePidFile } from '#host/qemu/process.ts'
import { Fault } from '#kit/fault.ts'
import { booted, driverContract, specOf, until } from '../../driver.contract.ts'
import { scopeOf, uidRange } from './host.ts'
import { qemuDriver } from './index.ts'
import { qemuPlace, quiet, unable } from './testing.ts'

const why = unable()
if (why === undefined) driverContract('qemu', qemuPlace)
else test('driver contract: qemu', { skip: why }, () => undefined)

test('guest users are where nobody else is', () => {
  const [first, count] = uidRange(scopeOf('/var/lib/nubo/nova'))
  assert.ok(first >= 1_900_000_000 && first + count < 2 ** 31)
  assert.notDeepEqual(uidRange(scopeOf('/a')), uidRange(scopeOf('/b')))
})

const skip = why ?? false

async function opened(t: TestContext) {
  const place = await qemuPlace()
  let driver = place.driver()
  t.after(async () => {
    for (const guest of await driver.list()) await driver.destroy(guest.id)
    assert.deepEqual(await place.residue(), [])
    await driver.close()
    await place.close()
  })
  await driver.open()
  const file = (id: string, name: string) => join(place.dataDir, 'guests', id, name)
  const pid = async (id: string) => parsePidFile(await readFile(file(id, 'pid'), 'utf8'))!.pid
  const reopen = async (between: () => Promise<void>) => {
    await driver.close()
    await between()
    driver = place.driver()
    await driver.open()
    return driver
  }
  return { place, driver, file, pid, reopen }
}

test('a qemu that dies is started again, but not for ever', { skip }, async t => {
  const { place, driver, pid } = await opened(t)
  const spec = specOf(place.image)
  await driver.ensure(spec)
  const first = await pid(spec.id)
  process.kill(first, 'SIGKILL')
  // It had just been started: dying again at once would only repeat itself.
  const crashed = await until(async () => {
    const guest = await driver.inspect(spec.id)
    return guest?.power === 'crashed' && guest
  }, 'the crash')
  assert.match(crashed.reason ?? '', /ended unexpectedly: it was killed by SIGKILL/)
  assert.equal(crashed.wanted, 'running')
  assert.equal((await driver.ensure(spec)).power, 'running')
})

test('a guest whose qemu died while no agent looked, as at a reboot of the host, runs again', { skip }, async t => {
  const { place, driver, pid, reopen } = await opened(t)
  const spec = specOf(place.image)
  await driver.ensure(spec)
  await booted(driver, spec.id, 1)
  const dead = await pid(spec.id)
  const next = await reopen(async () => void process.kill(dead, 'SIGKILL'))
  await until(async () => (await pid(spec.id).catch(() => dead)) !== dead, 'it runs again')
  await booted(next, spec.id, 2)
})

test('a pid that somebody else has now is not taken for the guest', { skip }, async t => {
  const { place, driver, pid, file, reopen } = await opened(t)
  const spec = specOf(place.image)
  await driver.ensure(spec)
  const was = await pid(spec.id)
  const next = await reopen(async () => {
    process.kill(was, 'SIGKILL')
    const text = await readFile(file(spec.id, 'pid'), 'utf8')
    await writeFile(file(spec.id, 'pid'), text.replace(`\n${was} `, `\n${process.pid} `))
  })
  assert.equal((await next.power(spec.id, 'off', { timeout: 0 })).power, 'off')
  await next.destroy(spec.id)
})

test('the console log is bounded', { skip }, async t => {
  const { place } = await opened(t)
  const driver = qemuDriver({
    dataDir: place.dataDir,
    images: async () => assert.fail(),
    log: quiet,
    accel: 'tcg',
    consoleBytes: 100,
  })
  const other = place.driver()
  await other.open()
  const spec = specOf(place.image)
  await other.ensure(spec)
  await booted(other, spec.id, 1)
  await other.close()
  await driver.open()
  await until(async () => (await driver.inspect(spec.id))?.power === 'running', 'it is known')
  await driver.power(spec.id, 'running')
  const port = await driver.console(spec.id, 'serial')
  port.write('x'.repeat(300))
  await until(
    async () => (await readFile(join(place.dataDir, 'guests', spec.id, 'console.log.1')).catch(() => undefined))?.length,
    'it is turned over',
  )
  port.destroy()
  assert.ok((await driver.consoleOutput(spec.id)).includes('xxx'))
  await driver.destroy(spec.id)
  await driver.close()
})

test('what the host lacks is named', { skip }, async t => {
  const { place } = await opened(t)
  const says = async (options: Partial<Parameters<typeof qemuDriver>[0]>, pattern: RegExp) => {
    const driver = qemuDriver({ dataDir: place.dataDir, images: async () => assert.fail(), log: quiet, ...options })
    await assert.rejects(driver.open(), error => {
      assert.ok(error instanceof Fault)
      assert.equal(error.kind, 'unavailable')
      assert.match(error.message, pattern)
      return true
    })
  }
  await says({ binary: 'qemu-of-nowhere' }, /qemu-of-nowhere is not installed on this host/)
  const closed = join(place.dataDir, 'closed')
  await mkdir(join(closed, 'nova'), { recursive: true })
  await chmod(closed, 0o700)
  await says({ dataDir: join(closed, 'nova') }, /cannot pass through .*closed: chmod o\+x/)
})

test('why a guest does not start is said in words of qemu', { skip }, async t => {
  const { place, driver } = await opened(t)
  const spec = specOf(place.image, { cpuModel: 'no-such-cpu' })
  await assert.rejects(driver.ensure(spec), /qemu did not start: .*no-such-cpu/)
  const guest = await driver.inspect(spec.id)
  assert.match(guest?.reason ?? '', /no-such-cpu/)
  assert.equal(guest?.power, 'off')
  const damaged = { ...place.image, id: 'tiny2', checksum: { algorithm: 'sha256' as const, hex: '00' } }
  place.images.set('tiny2', place.images.get('tiny')!)
  await assert.rejects(driver.ensure(specOf(damaged)), /arrived damaged/)
})
