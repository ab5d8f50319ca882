import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import {
  type Cgroups,
  cgroupsFind,
  groupEnsure,
  groupNames,
  groupPids,
  groupRemove,
  limitFiles,
  parseMounts,
  weightOf,
} from './index.ts'

const HYBRID = `30 25 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`
const UNIFIED = '30 25 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n'

test('a controller lives in one tree, which may be of either version', () => {
  const hybrid = parseMounts(HYBRID, () => 'hugetlb pids')
  assert.deepEqual(hybrid, {
    v1: { cpu: '/sys/fs/cgroup/cpu,cpuacct', memory: '/sys/fs/cgroup/memory' },
    v2: { root: '/sys/fs/cgroup/unified', controllers: ['pids'] },
  })
  assert.deepEqual(
    parseMounts(UNIFIED, () => 'cpuset cpu io memory pids'),
    {
      v1: {},
      v2: { root: '/sys/fs/cgroup', controllers: ['memory', 'cpu', 'pids'] },
    },
  )
})

test('the same limits in the words of both versions', () => {
  const limits = { memoryBytes: 1 << 30, cpuQuota: { quotaUs: 50_000, periodUs: 100_000 }, cpuShares: 2048, pids: 100 }
  const words = (groups: Cgroups) => limitFiles(groups, limits).map(f => `${f.file}=${f.value}`)
  assert.deepEqual(words({ v1: { memory: '/m', cpu: '/c', pids: '/p' } }), [
    'memory.limit_in_bytes=1073741824',
    'cpu.cfs_quota_us=-1',
    'cpu.cfs_period_us=100000',
    'cpu.cfs_quota_us=50000',
    'cpu.shares=2048',
    'pids.max=100',
  ])
  assert.deepEqual(words({ v1: {}, v2: { root: '/u', controllers: ['memory', 'cpu', 'pids'] } }), [
    'memory.max=1073741824',
    'cpu.max=50000 100000',
    'cpu.weight=79',
    'pids.max=100',
  ])
  assert.deepEqual(limitFiles({ v1: {} }, limits), [], 'a host without controllers limits nothing')
  assert.deepEqual([weightOf(2), weightOf(1024), weightOf(262144)], [1, 39, 10000])
})

test('a group is made in each tree, holds its limits, is found and removed', async t => {
  const root = await mkdtemp(join(tmpdir(), 'nubo-cgroup-'))
  t.after(() => rm(root, { recursive: true, force: true }))
  const groups: Cgroups = { v1: { memory: join(root, 'm') }, v2: { root: join(root, 'u'), controllers: ['cpu'] } }
  for (const folder of ['u', 'u/n']) {
    await mkdir(join(root, folder), { recursive: true })
    await writeFile(join(root, folder, 'cgroup.subtree_control'), '')
  }
  const enter = await groupEnsure(groups, 'n/g', { memoryBytes: 4096 })
  assert.deepEqual(enter, [join(root, 'm/n/g/cgroup.procs'), join(root, 'u/n/g/cgroup.procs')])
  assert.equal(await readFile(join(root, 'm/n/g/memory.limit_in_bytes'), 'utf8'), '4096')
  assert.equal(await readFile(join(root, 'u/n/cgroup.subtree_control'), 'utf8'), '+cpu')
  await writeFile(enter[0] as string, '12\n13\n')
  assert.deepEqual(await groupPids(groups, 'n/g'), [12, 13])
  assert.deepEqual(await groupNames(groups, 'n'), ['g'])
  for (const folder of ['m/n/g', 'u/n/g']) await rm(join(root, folder), { recursive: true })
  await groupRemove(groups, 'n/g')
  assert.deepEqual(await groupPids(groups, 'n/g'), [])
})

test('a group goes when the last process in it has ended', { skip: process.getuid?.() === 0 ? false : 'needs root' }, async t => {
  const groups = await cgroupsFind()
  const name = `nubo-test-${process.pid}-ending`
  const files = await groupEnsure(groups, name, { pids: 10 })
  const child = spawn('sleep', ['60'])
  t.after(() => child.kill('SIGKILL'))
  for (const file of files) await writeFile(file, String(child.pid))
  await assert.rejects(groupRemove(groups, name, 50), { code: 'EBUSY' })
  const removed = groupRemove(groups, name)
  child.kill('SIGKILL')
  await removed
  assert.deepEqual(await groupPids(groups, name), [])
})
