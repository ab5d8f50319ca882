import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ConfigError, parseConfig } from '../config.ts'
import { notFound } from '../fault.ts'
import type { Service } from '../service.ts'
import { corsOf, corsSettings } from './cors.ts'
import { route } from './route.ts'
import { type TestCloud, testCloud } from './test.ts'

const HORIZON = 'https://horizon.example.com'
const ORIGIN = 'access-control-allow-origin'

const things: Service = {
  name: 'things',
  type: 'thing',
  prefix: '/things',
  mounts: ['/v1'],
  wire: {
    fault: ({ status, message }) => ({ body: { error: { code: status, message } } }),
    headers: () => ({ Vary: 'X-Auth-Token' }),
  },
  routes: [
    route({ method: 'GET', path: '/all', auth: 'none', policy: null, handle: () => ({ things: [] }) }),
    route({
      method: 'DELETE',
      path: '/all',
      auth: 'none',
      policy: null,
      handle: () => {
        throw notFound('There are none.')
      },
    }),
  ],
  policies: [],
  migrations: [],
}

/** A store that answers for itself, as object storage does. */
const raw: Service = {
  ...things,
  name: 'raw',
  prefix: '/raw',
  routes: [],
  raw: (_env, req, res) => void res.writeHead(200, { 'X-Seen': req.method! }).end(),
}

const configured = (yaml: string) => corsOf(parseConfig(yaml, 'n.yaml', [corsSettings]).of(corsSettings))

const asks = (cloud: TestCloud, method: string, headers: Record<string, string> = {}, origin = HORIZON) =>
  cloud.call('OPTIONS /things/v1/all', { headers: { origin, 'access-control-request-method': method, ...headers } })

test('without an allowed origin there is nothing between a request and its service', async t => {
  assert.equal(configured(''), undefined)
  const cloud = await testCloud(t, [things])
  const seen = await cloud.call('GET /things/v1/all', { headers: { origin: HORIZON } })
  assert.equal(seen.headers.get(ORIGIN), null)
  assert.equal(seen.headers.get('vary'), 'X-Auth-Token')
  assert.equal((await asks(cloud, 'GET')).status, 405)
})

test('pages of an allowed origin see answers and refusals; others do not', async t => {
  const cloud = await testCloud(t, [things, raw], { cors: configured(`cors: { allowed_origin: ['${HORIZON}'] }`) })
  const seen = await cloud.call('GET /things/v1/all', { headers: { origin: HORIZON } })
  assert.deepEqual(seen.body, { things: [] })
  assert.equal(seen.headers.get(ORIGIN), HORIZON)
  assert.equal(seen.headers.get('access-control-allow-credentials'), 'true')
  assert.equal(seen.headers.get('vary'), 'X-Auth-Token,Origin')
  assert.match(seen.headers.get('access-control-expose-headers')!, /(^|,)X-Subject-Token(,|$)/)
  for (const path of ['DELETE /things/v1/all', 'GET /things/v1/nothing']) {
    const refused = await cloud.call(path, { headers: { origin: HORIZON } })
    assert.equal(refused.status, 404)
    assert.equal(refused.headers.get(ORIGIN), HORIZON)
  }
  for (const headers of [{ origin: 'https://evil.example.com' }, { origin: `${HORIZON}:8443` }, undefined]) {
    const other = await cloud.call('GET /things/v1/all', { headers })
    assert.equal(other.status, 200)
    assert.equal(other.headers.get(ORIGIN), null)
  }
})

test('a preflight is allowed what the configuration allows', async t => {
  const cloud = await testCloud(t, [things, raw], {
    cors: configured(
      `cors: { allowed_origin: ['${HORIZON}'], allow_methods: [GET, PATCH], max_age: 60, allow_credentials: false }`,
    ),
  })
  const may = await asks(cloud, 'PATCH', { 'access-control-request-headers': 'x-auth-token, content-type' })
  assert.equal(may.status, 200)
  assert.equal(may.body, '')
  assert.equal(may.headers.get(ORIGIN), HORIZON)
  assert.equal(may.headers.get('access-control-allow-credentials'), null)
  assert.equal(may.headers.get('access-control-allow-methods'), 'PATCH')
  assert.equal(may.headers.get('access-control-allow-headers'), 'x-auth-token,content-type')
  assert.equal(may.headers.get('access-control-max-age'), '60')
  assert.equal(may.headers.get('vary'), 'Origin')
  const not = [
    await asks(cloud, 'DELETE'),
    await asks(cloud, 'GET', { 'access-control-request-headers': 'x-auth-token, x-secret' }),
    await asks(cloud, 'GET', {}, 'https://evil.example.com'),
    await cloud.call('OPTIONS /things/v1/all', { headers: { origin: HORIZON } }),
    await cloud.call('OPTIONS /things/v1/all'),
  ]
  for (const refused of not) {
    assert.equal(refused.status, 200)
    assert.equal(refused.headers.get(ORIGIN), null)
    assert.equal(refused.headers.get('access-control-allow-methods'), null)
  }
})

test('any origin is a star; what answers for itself is left alone', async t => {
  const cloud = await testCloud(t, [things, raw], { cors: configured("cors: { allowed_origin: ['*'] }") })
  assert.equal((await cloud.call('GET /things/v1/all', { headers: { origin: HORIZON } })).headers.get(ORIGIN), '*')
  for (const method of ['GET', 'OPTIONS']) {
    const own = await cloud.call(`${method} /raw/a`, { headers: { origin: HORIZON } })
    assert.equal(own.headers.get('x-seen'), method)
    assert.equal(own.headers.get(ORIGIN), null)
  }
})

test('an origin that is none, and a header that cannot be one, are told before anything starts', () => {
  for (const wrong of [
    "allowed_origin: ['https://horizon.example.com/']",
    "allowed_origin: ['horizon.example.com']",
    "expose_headers: ['X-A\\r\\nX-B: 1']",
    'max_age: -1',
  ])
    assert.throws(() => configured(`cors: { ${wrong} }`.replaceAll("'", '"')), ConfigError, wrong)
})
