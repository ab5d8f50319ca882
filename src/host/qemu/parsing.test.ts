// Pure parsing of what tools and the kernel print; the texts are captured output, shortened.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { safePath } from './configdrive.ts'
import { parseCheck, parseInfo, unsafe } from './img.ts'
import { cpuTraits, parseCpuInfo, parseMemInfo } from './inventory.ts'
import { deviceGroups, parseFeatures, parseMachines, parseVersion, pickFirmware, probeRom, versionNumber } from './probe.ts'
import { lastWords, launchArgv, parsePidFile, parseStat } from './process.ts'
import { parseTaps } from './tap.ts'

const OVERLAY = `{ "backing-filename-format": "raw", "virtual-size": 1073741824, "filename": "o.qcow2", "cluster-size": 65536, "format": "qcow2",
  "actual-size": 200704, "format-specific": { "type": "qcow2", "data": { "compat": "1.1", "corrupt": false } },
  "full-backing-filename": "/etc/shadow", "backing-filename": "/etc/shadow", "dirty-flag": false }`
const DATA_FILE = `{ "virtual-size": 1048576, "filename": "d.qcow2", "format": "qcow2", "actual-size": 200704,
  "format-specific": { "type": "qcow2", "data": { "data-file": "/dev/sda", "data-file-raw": false, "corrupt": false } } }`
const PLAIN = { format: 'qcow2', virtualSize: 1 << 20, actualSize: 1, encrypted: false, snapshots: [], corrupt: false }

test('qemu-img info: what makes an image unsafe is seen', () => {
  assert.match(unsafe(parseInfo(OVERLAY), 'qcow2', 2 ** 40) ?? '', /backing file \(\/etc\/shadow\)/)
  assert.match(unsafe(parseInfo(DATA_FILE), 'qcow2', 2 ** 40) ?? '', /another file \(\/dev\/sda\)/)
  assert.equal(unsafe(PLAIN, 'qcow2', 2 ** 40), undefined)
  assert.match(unsafe(PLAIN, 'raw', 2 ** 40) ?? '', /it is qcow2, not raw/)
  assert.match(unsafe(PLAIN, 'qcow2', 1000) ?? '', /more than the 1000 allowed/)
  assert.match(unsafe({ ...PLAIN, encrypted: true }, 'qcow2', 2 ** 40) ?? '', /encrypted/)
  assert.match(unsafe({ ...PLAIN, format: 'vmdk', createType: 'monolithicFlat' }, 'vmdk', 2 ** 40) ?? '', /monolithicFlat/)
  assert.equal(unsafe({ ...PLAIN, format: 'vmdk', createType: 'streamOptimized' }, 'vmdk', 2 ** 40), undefined)
  assert.throws(() => parseInfo('{}'), /not the output of qemu-img info/)
})

test('qemu-img check', () => {
  assert.deepEqual(parseCheck('{"image-end-offset": 262144, "check-errors": 0, "leaks": 3}'), { corruptions: 0, leaks: 3 })
})

test('a process is told by its start time, whatever its name', () => {
  const stat = '4711 (qemu) R (x) S 1 4711 4711 0 -1 4194560 1 2 3 4 70 30 7 8 20 0 5 0 987654 1 2'
  assert.deepEqual(parseStat(stat), { pid: 4711, state: 'S', startTime: '987654', ticks: 100 })
  assert.deepEqual(parsePidFile(`boot\n${stat}\n`), { pid: 4711, startTime: '987654', bootId: 'boot' })
  assert.equal(parsePidFile('boot\n4711 (qe'), undefined)
  assert.equal(parsePidFile(''), undefined)
})

test('the last words of qemu have no clutter', () => {
  const log =
    '2026-11-22T17:00:00.000000Z qemu-system-x86_64: warning: no KVM\n2026-11-22T17:00:00.1Z qemu-system-x86_64: -drive x: no such file\n\n'
  assert.equal(lastWords(log), '-drive x: no such file')
})

test('a launch drops all privileges, and what runs is arguments, never text of a script', () => {
  const argv = launchArgv({
    argv: ['qemu', '-name', 'a; rm -rf /'],
    uid: 1_900_000_001,
    groups: [],
    cwd: '/g',
    lock: '/g/lock',
    pidFile: '/g/pid',
    log: '/g/log',
    enter: ['/sys/fs/cgroup/x/cgroup.procs'],
    netns: 'h1',
  })
  assert.deepEqual(argv.slice(0, 3), ['nsenter', '--net=/run/netns/h1', '--'])
  assert.deepEqual(argv.slice(3, 5), ['sh', '-c'])
  assert.ok(!argv[5]?.includes('rm -rf'))
  assert.deepEqual(argv.slice(6, 11), ['nubo-guest', '/g/lock', '/g/pid', '/sys/fs/cgroup/x/cgroup.procs', '--'])
  assert.deepEqual(argv.slice(11, 16), [
    'setpriv',
    '--reuid=1900000001',
    '--regid=1900000001',
    '--clear-groups',
    '--no-new-privs',
  ])
  assert.deepEqual(argv.slice(-4), ['--', 'qemu', '-name', 'a; rm -rf /'])
})

test('taps, with their owners', () => {
  assert.deepEqual(parseTaps(''), [])
  const text = JSON.stringify([
    {
      ifname: 'tap1',
      mtu: 1450,
      flags: ['UP'],
      linkinfo: { info_kind: 'tun', info_data: { type: 'tap', multi_queue: false, user: 1900000005 } },
    },
    { ifname: 'tap2', mtu: 1500, flags: [], linkinfo: { info_kind: 'tun', info_data: { type: 'tap', user: 'alice' } } },
    { ifname: 'tun0', linkinfo: { info_kind: 'tun', info_data: { type: 'tun' } } },
  ])
  assert.deepEqual(parseTaps(text), [
    { name: 'tap1', uid: 1900000005, multiQueue: false, mtu: 1450, up: true },
    { name: 'tap2', multiQueue: false, mtu: 1500, up: false },
  ])
})

test('the host in numbers', () => {
  const cpu = (n: number, socket: number, core: number) =>
    `processor\t: ${n}\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\nphysical id\t: ${socket}\ncore id\t\t: ${core}\nflags\t\t: sse avx fpu\n`
  const info = parseCpuInfo([cpu(0, 0, 0), cpu(1, 0, 0), cpu(2, 0, 1), cpu(3, 0, 1)].join('\n'))
  assert.deepEqual(info, {
    vendor: 'AMD',
    model: 'AMD EPYC',
    online: 4,
    topology: { sockets: 1, cores: 2, threads: 2 },
    flags: ['avx', 'fpu', 'sse'],
  })
  assert.deepEqual(parseMemInfo('MemTotal:       24684092 kB\nMemFree: 1024 kB\nMemAvailable:   22365904 kB\n'), {
    totalMb: 24105,
    availableMb: 21841,
  })
  assert.deepEqual(cpuTraits(['aes', 'sse4.1', 'avx2', 'no-such']), ['HW_CPU_X86_AESNI', 'HW_CPU_X86_AVX2', 'HW_CPU_X86_SSE41'])
})

test('qemu tells of itself', () => {
  assert.equal(parseVersion('QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright'), '7.2.22')
  assert.throws(() => parseVersion('nothing'), /no version/)
  assert.equal(versionNumber('7.2.22'), 7002022)
  const machines =
    'Supported machines are:\npc                   Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-7.2)\nisapc  ISA-only PC\n'
  assert.deepEqual(parseMachines(machines), { pc: 'pc-i440fx-7.2' })
  const qmp =
    '{"QMP": {}}\n{"return": {}}\n{"return": {"model": {"name": "max", "props": {"avx": true, "hv": false, "level": 3, "aes": true}}}}\n'
  assert.deepEqual(parseFeatures(qmp), ['aes', 'avx'])
  assert.throws(() => parseFeatures('{"QMP": {}}'), /no CPU model/)
})

test('firmware is picked by what it can do', () => {
  const firmware = (code: string, features: string[], machines = ['pc-q35-*']) =>
    JSON.stringify({
      'interface-types': ['uefi'],
      mapping: { device: 'flash', executable: { filename: code }, 'nvram-template': { filename: `${code}.vars` } },
      targets: [{ architecture: 'x86_64', machines }],
      features,
    })
  const files = [
    firmware('/enrolled', ['secure-boot', 'enrolled-keys', 'requires-smm']),
    firmware('/secure', ['secure-boot', 'requires-smm']),
    firmware('/microvm', [], ['microvm']),
    firmware('/plain', ['acpi-s3']),
  ]
  assert.equal(pickFirmware(files, true)?.code, '/enrolled')
  assert.equal(pickFirmware(files, false)?.code, '/plain')
  assert.equal(pickFirmware(files.slice(1, 3), false), undefined)
})

test('who may open a device', () => {
  assert.deepEqual(deviceGroups(0o20666, 0), [])
  assert.deepEqual(deviceGroups(0o20660, 104), [104])
  assert.equal(deviceGroups(0o20600, 0), undefined)
  assert.equal(deviceGroups(0o20660, 0), undefined, "root's own group is no way in")
})

test('the probe begins where a processor begins', () => {
  const rom = probeRom()
  assert.equal(rom.length, 65536)
  assert.equal(rom.subarray(0xfff0, 0xfff5).toString('hex'), 'ea000000f0')
})

test('a config drive keeps to itself', () => {
  assert.equal(safePath('openstack/latest/meta_data.json'), 'openstack/latest/meta_data.json')
  for (const bad of ['', '/etc/passwd', '../x', 'a/../../b', 'a\0b']) assert.throws(() => safePath(bad), /not a path inside/)
})
