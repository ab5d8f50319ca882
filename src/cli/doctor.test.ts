import assert from 'node:assert/strict'
import { test } from 'node:test'
import { findings } from './doctor/finding.ts'
import { kernelFindings } from './doctor/kernel.ts'
import { softwareFindings, versionIn } from './doctor/software.ts'
import { report } from './doctor.ts'

const { ok, limited, missing } = findings('Machine')

test('each line says what it means and what mends it; the last line sums up', () => {
  const text = report([
    ok('memory', '8 GiB'),
    limited('KVM', 'no /dev/kvm', 'slow', 'sudo modprobe kvm'),
    missing('qemu-img', 'not here', 'no disks'),
  ])
  assert.match(text, /ok {7}memory/)
  assert.match(text, /limited {2}KVM .*no \/dev\/kvm\n +so: slow\n +to mend: sudo modprobe kvm\n/)
  assert.match(text, /All packages at once: .* qemu-utils\n/)
  assert.match(text, /cannot run real servers yet: qemu-img\.\n$/)
  assert.match(report([ok('KVM', 'a test guest ran')]), /can run real servers, with KVM/)
})

test('versions are read from what the programs print', () => {
  assert.equal(versionIn('QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright'), '7.2.22')
  assert.equal(versionIn('nftables v1.0.6 (Lester Gooch #5)'), '1.0.6')
  assert.equal(versionIn('mke2fs 1.47.0 (5-Feb-2023)\n\tUsing EXT2FS Library version 1.47.0'), '1.47.0')
  assert.equal(versionIn('ip utility, iproute2-6.1.0, libbpf 1.1.2'), '6.1.0')
  assert.equal(versionIn('odd'), 'odd')
})

test('a port that somebody listens on is found out', async t => {
  const { createServer } = await import('node:net')
  const server = createServer().listen(0, '127.0.0.1')
  await new Promise(resolve => server.once('listening', resolve))
  t.after(() => server.close())
  const address = server.address()
  const port = typeof address === 'object' && address !== null ? address.port : 0
  const all = await softwareFindings(`127.0.0.1:${port}`)
  const found = all.find(({ name }) => name === `127.0.0.1:${port}`)
  assert.equal(found?.state, 'limited')
  assert.match(found?.seen ?? '', /in use/)
  for (const { state, consequence } of all) assert.equal(consequence === undefined, state === 'ok')
})

test('the kernel is tried without leaving anything behind', async () => {
  const { readdir } = await import('node:fs/promises')
  const before = await readdir('/sys/class/net')
  const all = await kernelFindings()
  assert.ok(all.some(({ name }) => name === 'network namespaces'))
  const left = (await readdir('/sys/class/net')).filter(name => /^t[01]$/.test(name) && !before.includes(name))
  assert.deepEqual(left, [])
})
