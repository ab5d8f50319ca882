import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import type { Who } from '../context.ts'
import { silentLog } from '../log.ts'
import { openMetrics } from '../metrics.ts'
import { enforcer } from '../policy/index.ts'
import type { Env, Service } from '../service.ts'
import { HAR_BODY_LIMIT, type HarExchange, harEntry, harOf, harRecorder } from './har.ts'
import { route } from './route.ts'
import { Object as ObjectSchema, String as StringSchema } from './schema.ts'
import { listen, server } from './server.ts'

interface Entry {
  startedDateTime: string
  request: {
    method: string
    url: string
    headers: { name: string; value: string }[]
    postData?: { text: string }
    queryString: unknown[]
    bodySize: number
  }
  response: {
    status: number
    headers: { name: string; value: string }[]
    content: { size: number; text?: string; mimeType: string }
  }
}
const FERNET = `gAAAAABk${'x'.repeat(90)}`
const plain: HarExchange = {
  startedAt: 0,
  ms: 1.5,
  method: 'GET',
  url: 'http://127.0.0.1:5000/compute/v2.1/servers?limit=1',
  requestHeaders: {},
  status: 200,
  responseHeaders: { 'Content-Type': 'application/json', Vary: ['A', 'B'], 'Content-Length': 2, gone: undefined },
  responseBody: '{}',
}
const entry = (more: Partial<HarExchange> = {}) => harEntry({ ...plain, ...more }) as Entry

test('an entry has what HAR 1.2 and the checker want', () => {
  const e = entry({ requestBody: '{"a": 1}', requestHeaders: { 'content-type': 'application/json' } })
  assert.equal(e.startedDateTime, '1970-01-01T00:00:00.000Z')
  assert.equal(e.request.url, plain.url)
  assert.deepEqual(e.request.queryString, [{ name: 'limit', value: '1' }])
  assert.equal(e.request.postData!.text, '{"a": 1}')
  assert.deepEqual(e.response.headers, [
    { name: 'Content-Type', value: 'application/json' },
    { name: 'Vary', value: 'A' },
    { name: 'Vary', value: 'B' },
    { name: 'Content-Length', value: '2' },
  ])
  assert.deepEqual(e.response.content, { size: 2, mimeType: 'application/json', text: '{}' })
})

test('long bodies, binary ones and streams are left out with their size', () => {
  const long = 'x'.repeat(HAR_BODY_LIMIT + 1)
  assert.deepEqual(entry({ responseBody: long }).response.content, { size: long.length, mimeType: 'application/json' })
  const type = { 'content-type': 'application/octet-stream' }
  assert.deepEqual(entry({ responseHeaders: type, responseBody: Buffer.from('abc') }).response.content, {
    size: 3,
    mimeType: 'application/octet-stream',
  })
  assert.equal(entry({ responseBody: Buffer.from([0xff, 0xfe, 0]) }).response.content.text, undefined)
  const stream = { 'content-length': '999', ...type }
  assert.equal(entry({ responseHeaders: stream, responseBody: undefined }).response.content.size, 999)
  assert.equal(entry({ responseHeaders: stream, responseBody: undefined, method: 'HEAD' }).response.content.size, 0)
  assert.equal(entry({ requestBody: long }).request.postData, undefined)
})

test('no secret reaches a recording, and what stands in its place has its type', () => {
  const bodies = [
    {
      auth: {
        identity: {
          methods: ['password', 'totp'],
          password: { user: { id: 'me', password: 'geheim' } },
          totp: { user: { id: 'me', passcode: '123456' } },
        },
      },
    },
    { auth: { identity: { methods: ['token'], token: { id: FERNET } } } },
    { auth: { identity: { application_credential: { id: 'x', secret: 'geheim' } } } },
    { user: { original_password: 'geheim', password: 'geheim' } },
    { server: { adminPass: 'geheim', user_data: 'Z2VoZWlt', metadata: { db_password: 'geheim' } } },
    {
      keypair: {
        private_key: '-----BEGIN OPENSSH PRIVATE KEY-----\ngeheim\n-----END OPENSSH PRIVATE KEY-----\n',
        public_key: 'ssh-rsa AAAA',
      },
    },
    { credential: { type: 'ec2', blob: '{"access":"open","secret":"geheim"}' } },
    { credential: { type: 'totp', blob: 'geheim' } },
    { console: { url: 'http://h:6080/vnc_lite.html?path=%3Ftoken%3Dgeheim' } },
    { remote_console: { url: 'wss://h/?token=geheim&x=1', type: 'novnc' } },
    { node: { driver_info: { ipmi_password: 'geheim', ipmi_address: 'a' } } },
    { transfer: { auth_key: 'geheim' }, list: [{ access_token: 'geheim', secret: ['geheim', 5] }] },
    { image: { locations: [{ url: 'swift+https://me:geheim@h/c/o' }] } },
  ]
  for (const body of bodies) {
    const text = JSON.stringify(entry({ requestBody: JSON.stringify(body), responseBody: JSON.stringify(body) }))
    assert.doesNotMatch(text, /geheim|Z2VoZWlt|gAAAA|123456/)
  }
  const auth = JSON.parse(entry({ requestBody: JSON.stringify(bodies[0]) }).request.postData!.text).auth.identity
  assert.deepEqual(
    [auth.methods, auth.password.user, auth.totp.user.passcode],
    [['password', 'totp'], { id: 'me', password: '********' }, '000000'],
  )
  const server = JSON.parse(entry({ requestBody: JSON.stringify(bodies[4]) }).request.postData!.text).server
  assert.equal(Buffer.from(server.user_data, 'base64').toString('base64'), server.user_data)
  const blob = JSON.parse(entry({ responseBody: JSON.stringify(bodies[6]) }).response.content.text!).credential.blob
  assert.deepEqual(JSON.parse(blob), { access: 'open', secret: '********' })
})

test('headers, URLs, forms and broken bodies are masked as well', () => {
  const e = entry({
    url: 'http://me:geheim@h/compute/v2.1/os-console-auth-tokens/geheim?temp_url_sig=geheim&limit=2',
    requestHeaders: { 'X-Auth-Token': 'geheim', authorization: 'Basic geheim', cookie: ['a=geheim', 'b=geheim'], accept: '*/*' },
    requestBody: '{"auth": {"password": "geheim"',
    responseHeaders: { 'x-subject-token': 'geheim', 'set-cookie': ['geheim'], location: 'https://h/?token=geheim' },
    responseBody: 'password',
  })
  const form = entry({
    requestHeaders: { 'content-type': 'application/x-www-form-urlencoded' },
    requestBody: 'grant_type=password&client_secret=geheim&password=geheim&client_id=a',
  })
  assert.doesNotMatch(JSON.stringify([e, form]), /geheim/)
  assert.equal(form.request.postData!.text, 'grant_type=password&client_secret=********&password=********&client_id=a')
  assert.ok(e.request.headers.some(h => h.name === 'X-Auth-Token' && h.value !== ''))
  assert.ok(e.request.headers.some(h => h.name === 'accept' && h.value === '*/*'))
})

test('a body without secrets stays byte for byte, however odd', () => {
  const deep = '['.repeat(50_000) + ']'.repeat(50_000)
  for (const text of [
    '{"n": 1.0, "big": 12345678901234567890, "u": "\\u0041"}',
    '{"a": {"__proto__": 5}}',
    '{"password": null}',
    '[',
    '{"a":1}{',
    deep,
  ])
    assert.equal(entry({ responseBody: text }).response.content.text, text)
})

test('lines are appended to a file of one owner, all there after close', async () => {
  const file = join(mkdtempSync(join(tmpdir(), 'policy-har-')), 'r.jsonl')
  for (let round = 0; round < 2; round++) {
    const recorder = harRecorder(file)
    for (let i = 0; i < 500; i++) recorder.record({ ...plain, status: 200 + i })
    await recorder.close()
    recorder.record(plain)
    await recorder.close()
  }
  const lines = readFileSync(file, 'utf8').trimEnd().split('\n')
  assert.equal(lines.length, 1000)
  assert.equal((JSON.parse(lines[499]!) as Entry).response.status, 699)
  assert.equal(statSync(file).mode & 0o777, 0o600)
})

test('a file that cannot be opened or written is told', async () => {
  assert.throws(() => harRecorder('/nonexistent/x'), { code: 'ENOENT' })
  const told: Error[] = []
  const recorder = harRecorder('/dev/full', error => told.push(error))
  recorder.record(plain)
  await assert.rejects(recorder.close(), { code: 'ENOSPC' })
  assert.equal(told.length, 1)
})

test('what a service answers is recorded whole and counted', async () => {
  const file = join(mkdtempSync(join(tmpdir(), 'policy-har-')), 'r.jsonl')
  const recorder = harRecorder(file)
  const metrics = openMetrics(silentLog)
  const policies = [{ name: 'x:make', check: 'role:member', description: 'Make.' }]
  const service: Service = {
    name: 'x',
    type: 'x',
    prefix: '/x',
    mounts: ['/v1'],
    policies,
    migrations: [],
    wire: { fault: fault => ({ body: { error: { code: fault.status, message: fault.message } } }) },
    routes: [
      route({
        method: 'POST',
        path: '/things/:id',
        success: 201,
        policy: 'x:make',
        body: ObjectSchema({ password: StringSchema() }),
        handle: ({ body, params, reply }) => {
          reply.headers['X-Subject-Token'] = FERNET
          return { id: params.id, adminPass: (body as { password: string }).password }
        },
      }),
    ],
  }
  const who = (roles: string[]): Who => ({
    userId: 'u',
    userDomainId: 'd',
    projectId: 'p',
    projectDomainId: 'd',
    domainId: null,
    systemScope: false,
    roles,
  })
  const policy = enforcer([{ name: 'x', rules: policies }])
  const listening = await listen(
    server({
      env: { log: silentLog } as Env,
      services: [service],
      identify: token => who([token]),
      policyOf: policy.of,
      keepBodies: true,
      onAnswer: x => {
        metrics.request(x.service, x.method, x.route, x.status, x.ms)
        recorder.record(harOf(x))
      },
    }),
    { host: '127.0.0.1', port: 0 },
  )
  const post = (token: string) =>
    fetch(`${listening.url}/x/v1/things/7?a=b`, {
      method: 'POST',
      headers: { 'X-Auth-Token': token, 'Content-Type': 'application/json' },
      body: JSON.stringify({ password: 'geheim' }),
    })
  const statuses = [await post('member'), await post('reader')].map(r => r.status)
  await listening.close(0)
  await recorder.close()
  assert.deepEqual(statuses, [201, 403])
  const text = readFileSync(file, 'utf8')
  assert.doesNotMatch(text, /geheim|gAAAA/)
  const [made, refused] = text
    .trimEnd()
    .split('\n')
    .map(line => JSON.parse(line) as Entry)
  assert.equal(made!.request.url, `${listening.url}/x/v1/things/7?a=b`)
  assert.deepEqual(JSON.parse(made!.request.postData!.text), { password: '********' })
  assert.deepEqual(JSON.parse(made!.response.content.text!), { id: '7', adminPass: '********' })
  assert.ok(made!.response.headers.some(h => h.name === 'X-Subject-Token' && h.value === '********'))
  assert.ok(made!.response.headers.some(h => h.name === 'x-openstack-request-id' && h.value.startsWith('req-')))
  assert.deepEqual(JSON.parse(refused!.response.content.text!), {
    error: { code: 403, message: "Policy doesn't allow x:make to be performed." },
  })
  assert.match(await metrics.text(), /nubo_http_requests_total\{service="x",method="POST",route="\/things\/:id",status="403"\} 1/)
})
