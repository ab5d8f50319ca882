import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { crc32 } from 'node:zlib'
import { run } from '#host/run.ts'
import { parsePrintUris } from './archive.ts'
import { cpio } from './cpio.ts'
import { elfNeeded } from './elf.ts'
import { EFI_SYSTEM, FIRST, gpt, LAST, LINUX_ROOT_X86_64, SECTOR } from './gpt.ts'

function folder(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), 'nubo-guest-'))
  t.after(() => rmSync(path, { recursive: true }))
  return path
}

const lacks = (program: string) =>
  run([program, '--version']).then(
    () => false as const,
    () => `needs ${program}`,
  )

test('what apt prints becomes packages', () => {
  const text = [
    "'http://deb.debian.org/debian/pool/main/b/busybox/busybox-static_1.35.0-4_amd64.deb' busybox-static_1%3a1.35.0-4_amd64.deb 928188 SHA256:ab12",
    'Reading package lists...',
    '',
  ].join('\n')
  assert.deepEqual(parsePrintUris(text), [{ package: 'busybox-static', version: '1:1.35.0-4', sha256: 'ab12' }])
})

test('libraries of a program are those that its loader would ask for', async () => {
  assert.ok((await elfNeeded(process.execPath)).includes('libc.so.6'))
  assert.deepEqual(await elfNeeded(import.meta.filename), [])
})

test('a cpio archive is what cpio reads', { skip: await lacks('cpio') }, async t => {
  const at = folder(t)
  const archive = cpio([
    { path: 'bin', mode: 0o40755 },
    { path: 'bin/tool', mode: 0o100755, data: Buffer.from('odd') },
    { path: 'sh', mode: 0o120777, data: Buffer.from('bin/tool') },
  ])
  const file = join(at, 'archive')
  writeFileSync(file, archive)
  const { stdout } = await run(['cpio', '-itv', '--quiet', '-F', file])
  const lines = stdout.trim().split('\n')
  assert.equal(lines.length, 3)
  assert.match(lines[0]!, /^drwxr-xr-x .* bin$/)
  assert.match(lines[1]!, /^-rwxr-xr-x .* 3 .* bin\/tool$/)
  assert.match(lines[2]!, /^lrwxrwxrwx .* sh -> bin\/tool$/)
})

test('a partition table is what its checksums say, and sfdisk agrees', async t => {
  const sectors = 8192
  const parts = [
    { type: EFI_SYSTEM, uuid: '00000000-0000-4000-8000-000000000001', name: 'boot', first: FIRST, size: 2048, legacyBoot: true },
    { type: LINUX_ROOT_X86_64, uuid: '00000000-0000-4000-8000-000000000002', name: 'root', first: 4096, size: 2048 },
  ]
  const { head, tail } = gpt('00000000-0000-4000-8000-000000000000', sectors, parts, Buffer.alloc(440, 0x90))
  assert.equal(tail.length, LAST * SECTOR)
  for (const header of [head.subarray(SECTOR, 2 * SECTOR), tail.subarray(-SECTOR)]) {
    const blank = Buffer.from(header.subarray(0, 92))
    blank.writeUInt32LE(0, 16)
    assert.equal(header.readUInt32LE(16), crc32(blank))
    assert.equal(header.readUInt32LE(88), crc32(head.subarray(2 * SECTOR)))
  }
  assert.equal(head[511], 0xaa)
  const missing = await lacks('sfdisk')
  if (missing) return t.diagnostic(`not shown to sfdisk: ${missing}`)
  const file = join(folder(t), 'disk')
  writeFileSync(file, Buffer.concat([head, Buffer.alloc(sectors * SECTOR - head.length - tail.length), tail]))
  const { stdout } = await run(['sfdisk', '--json', file])
  const { partitiontable: table } = JSON.parse(stdout)
  assert.deepEqual(
    table.partitions.map((p: { start: number; size: number; type: string; attrs?: string }) => [
      p.start,
      p.size,
      p.type.toLowerCase(),
      p.attrs,
    ]),
    [
      [FIRST, 2048, EFI_SYSTEM, 'LegacyBIOSBootable'],
      [4096, 2048, LINUX_ROOT_X86_64, undefined],
    ],
  )
  assert.equal((await run(['sfdisk', '--verify', file])).stderr, '')
})
