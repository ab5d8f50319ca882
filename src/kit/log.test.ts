import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, renameSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { memoryLog, openLog, readableLine } from './log.ts'

const FERNET = `gAAAAABk${'x'.repeat(90)}`

test('records carry level, time, fields of the parents and the message', () => {
  const log = memoryLog()
  log.child({ service: 'nova' }).child({ request_id: 'req-1' }).info({ id: 7 }, 'created')
  const { time, pid, ...rest } = log.records[0]!
  assert.deepEqual(rest, { level: 'info', service: 'nova', request_id: 'req-1', id: 7, message: 'created' })
  assert.match(String(time), /^\d{4}-\d\d-\d\dT.*Z$/)
  assert.equal(pid, process.pid)
})

test('secrets never get out, wherever they stand', () => {
  const lines: string[] = []
  const log = openLog({ sink: line => lines.push(line), level: 'trace' })
  log.info({ headers: { 'X-Auth-Token': 'geheim', 'x-subject-token': 'geheim', Authorization: 'Basic geheim' } })
  log.info({ body: { auth: { identity: { password: { user: { name: 'me', password: 'geheim' } } } } } }, 'x')
  log.info({ server: { adminPass: 'geheim', list: [{ private_key: 'geheim', original_password: 'geheim' }] } })
  log.info({ text: '{"admin_password": "geheim", "name": "n"}' })
  log.info(`token ${FERNET} given`)
  log.info(`X-Auth-Token: geheim and postgres://user:geheim@host/db`)
  log.error({ err: new Error('connect postgres://user:geheim@host', { cause: new Error('password "x" {"secret":"geheim"}') }) })
  log.error(new Error(`bad ${FERNET}`))
  log.child({ token: 'geheim' }).warn('y')
  log.warn({
    url: 'http://h/vnc?path=%3Ftoken%3Dgeheim&x=1',
    key: `-----BEGIN RSA PRIVATE KEY-----\ngeheim\n-----END RSA PRIVATE KEY-----`,
  })
  const all = lines.join('')
  assert.equal(lines.length, 10)
  assert.doesNotMatch(all, /geheim|gAAAA/)
  assert.match(all, /"name":"me"/)
  assert.match(all, /user:\*+@host/)
  assert.equal(JSON.parse(lines[6]!).err.cause.type, 'Error')
})

test('a level below the set one is not written, and can be set later', () => {
  const lines: string[] = []
  const log = openLog({ sink: line => lines.push(line), level: 'warn' })
  log.info('no')
  assert.equal(log.on('info'), false)
  log.setLevel('debug')
  log.debug('yes')
  assert.deepEqual(
    lines.map(line => JSON.parse(line).message),
    ['yes'],
  )
})

test('a record that JSON could not hold is still written', () => {
  const log = memoryLog()
  const cycle: Record<string, unknown> = { n: 10n, bytes: Buffer.from('abc'), at: new Date(0) }
  cycle.self = cycle
  log.info({ cycle }, 'c')
  assert.equal(log.records[0]!.message, 'c')
  const kept = log.records[0]!.cycle as Record<string, unknown>
  assert.deepEqual([kept.n, kept.bytes, kept.at], ['10', '[3 bytes]', '1970-01-01T00:00:00.000Z'])
})

test('a file is appended to, and opened anew after a rotation', () => {
  const file = join(mkdtempSync(join(tmpdir(), 'policy-log-')), 'sub', 'log')
  const log = openLog({ file })
  log.info('one')
  renameSync(file, `${file}.1`)
  log.reopen()
  log.info('two')
  assert.equal(JSON.parse(readFileSync(`${file}.1`, 'utf8')).message, 'one')
  assert.equal(JSON.parse(readFileSync(file, 'utf8')).message, 'two')
})

test('the readable form has the message first and the stack below', () => {
  const json = JSON.stringify({
    level: 'error',
    time: '2026-01-02T03:04:05.678Z',
    pid: 1,
    service: 'nova',
    id: 7,
    message: 'no',
    request_id: 'req-1',
    err: { stack: 'Error: a\n at b' },
  })
  assert.equal(readableLine(json, false), '03:04:05.678 ERROR nova: no id=7 (req-1)\n  Error: a\n   at b\n')
})
