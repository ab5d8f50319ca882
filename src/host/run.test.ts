import assert from 'node:assert/strict'
import { test } from 'node:test'
import { follow, logRuns, placed, type RunError, run, showArgv } from './run.ts'

const root = process.getuid?.() === 0

test('gives stdout, stderr and accepted codes', async () => {
  assert.deepEqual(await run(['sh', '-c', 'echo out; echo err >&2; exit 3'], { codes: [0, 3] }), {
    stdout: 'out\n',
    stderr: 'err\n',
    code: 3,
  })
})

test('feeds input, and does not mind a program that ignores it', async () => {
  assert.equal((await run(['cat'], { input: 'héllo' })).stdout, 'héllo')
  assert.equal((await run(['true'], { input: 'x'.repeat(1 << 20) })).code, 0)
})

test('the error carries the command line, the exit code and the words of the tool', async () => {
  const error: RunError = await run(['sh', '-c', "echo it\\'s broken >&2; exit 7"]).then(
    () => assert.fail(),
    e => e,
  )
  assert.equal(error.code, 7)
  assert.equal(error.reason, 'exit')
  assert.match(error.message, /^sh -c .*exit code 7: it's broken$/)
})

test('a missing program says so', async () => {
  await assert.rejects(run(['no-such-program-here']), {
    reason: 'missing',
    message: 'no-such-program-here: not installed on this host',
  })
  await assert.rejects(
    follow(['no-such-program-here'], () => undefined),
    { reason: 'missing' },
  )
})

test('a deadline kills the program and its children', async () => {
  const began = Date.now()
  await assert.rejects(run(['sh', '-c', 'sleep 60 & sleep 61; true'], { timeoutMs: 100 }), { reason: 'timeout' })
  assert.ok(Date.now() - began < 5000)
})

test('an abort signal cancels, also before the start', async () => {
  const stop = new AbortController()
  const waiting = run(['sleep', '60'], { signal: stop.signal })
  stop.abort()
  await assert.rejects(waiting, { reason: 'aborted' })
  await assert.rejects(run(['true'], { signal: stop.signal }), { reason: 'aborted' })
})

test('output beyond the limit is an error and not memory', async () => {
  await assert.rejects(run(['yes'], { maxBytes: 1000 }), { reason: 'output' })
})

test('each finished command can be logged with its output', async () => {
  const seen: Record<string, unknown>[] = []
  const stop = logRuns({ debug: fields => void seen.push(fields as Record<string, unknown>) })
  await run(['echo', 'hi'])
  stop()
  await run(['echo', 'not heard'])
  assert.deepEqual(
    seen.map(({ argv, code, stdout }) => ({ argv, code, stdout })),
    [{ argv: ['echo', 'hi'], code: 0, stdout: 'hi\n' }],
  )
})

test('arguments are shown so that they can be pasted', () => {
  assert.equal(showArgv(['ip', 'link', "it's", 'a b', '']), "ip link 'it'\\''s' 'a b' ''")
})

test('namespace and user become arguments of nsenter', () => {
  assert.deepEqual(placed(['id'], { netns: 'a', uid: 7 }), [
    'nsenter',
    '--net=/run/netns/a',
    '--setuid=7',
    '--setgid=7',
    '--',
    'id',
  ])
  assert.deepEqual(placed(['id'], { uid: 7 }), ['id'])
})

test('another user, with and without a namespace', { skip: root ? false : 'needs root' }, async () => {
  assert.match((await run(['id'], { uid: 65534 })).stdout, /^uid=65534\S* gid=65534\S*( groups=65534\S*)?\n$/)
  const inside = await run(['id'], { uid: 65534, netns: '/proc/self/ns/net' })
  assert.match(inside.stdout, /^uid=65534\S* gid=65534\S*( groups=65534\S*)?\n$/)
})

test('a followed program is read by line and stopped', async () => {
  const lines: string[] = []
  let got: () => void
  const two = new Promise<void>(resolve => {
    got = resolve
  })
  const followed = await follow(['sh', '-c', 'echo one; echo two; exec sleep 60'], line => {
    if (lines.push(line) === 2) got()
  })
  await two
  await followed.stop()
  assert.deepEqual(lines, ['one', 'two'])
  assert.equal((await followed.ended).stopped, true)
})
