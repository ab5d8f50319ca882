import assert from 'node:assert/strict'
import { request } from 'node:http'
import { Readable } from 'node:stream'
import { test } from 'node:test'
import { sql } from '../db/index.ts'
import { badRequest, notFound } from '../fault.ts'
import type { Service } from '../service.ts'
import { bytes, route } from './route.ts'
import * as S from './schema.ts'
import { FOREIGN, MEMBER, testCloud } from './test.ts'

const things = new Map([['1', { id: '1', project_id: 'p1' }]])
const targetThing = ({ params }: { params: Readonly<Record<string, string>> }) => {
  const found = things.get(params.id!)
  if (!found) throw notFound(`Thing ${params.id} could not be found.`)
  return found
}

const routes = [
  route({
    method: 'GET',
    path: '/',
    mounts: [''],
    auth: 'none',
    policy: null,
    handle: ({ self }) => ({ here: self('/things') }),
  }),
  route({
    method: 'GET',
    path: '/things',
    policy: 'thing:list',
    query: S.Object({ limit: S.Optional(S.Integer({ minimum: 0 })) }, { additionalProperties: false }),
    handle: ({ query, ctx }) => ({ limit: query.limit, project: ctx.projectId }),
  }),
  route({
    method: 'GET',
    path: '/things/:id',
    policy: 'thing:show',
    target: targetThing,
    handle: ({ target }) => ({ thing: target }),
  }),
  route({
    method: 'POST',
    path: '/things',
    policy: 'thing:create',
    success: 201,
    body: S.Object({
      thing: S.Object({ name: S.String(), tag: S.since(5, S.Optional(S.String())) }, { additionalProperties: false }),
    }),
    handle: ({ body, version }) => ({ name: body.thing.name, version }),
  }),
  route({
    method: 'POST',
    path: '/things/:id/action',
    action: 'start',
    policy: 'thing:show',
    target: targetThing,
    success: 202,
    handle: () => undefined,
  }),
  route({
    method: 'POST',
    path: '/things/:id/action',
    action: 'stop',
    since: 3,
    policy: 'thing:show',
    target: targetThing,
    body: S.Object({ stop: S.Null() }),
    handle: () => ({ stopped: true }),
  }),
  route({
    method: 'PUT',
    path: '/blob',
    raw: true,
    policy: null,
    handle: async ({ stream }) => {
      let size = 0
      for await (const part of stream) size += (part as Buffer).length
      return { size }
    },
  }),
  route({
    method: 'GET',
    path: '/blob',
    policy: null,
    handle: () => bytes(Readable.from([Buffer.from('abc')]), { length: 3, type: 'text/x' }),
  }),
  route({ method: 'GET', path: '/broken', policy: null, handle: () => Promise.reject(new Error('secret detail')) }),
  route({
    method: 'PUT',
    path: '/late/:code',
    policy: null,
    handle: ({ env, params }) =>
      env.db.tx(tx => sql`do ${sql.lit(`begin raise exception using errcode = '${params.code}'; end`)}`.execute(tx)),
  }),
  route({
    method: 'GET',
    path: '/bad',
    policy: null,
    handle: () => Promise.reject(badRequest('no', { headers: { 'x-a': 'b' } })),
  }),
]

const service: Service = {
  name: 'kit',
  type: 'things',
  prefix: '/thing',
  mounts: ['/v1', '/v1/:project_id'],
  wire: { fault: f => ({ body: { [f.kind]: { code: f.status, message: f.message } } }) },
  microversions: { type: 'things', legacyHeader: 'X-Things-Version', major: 1, min: 1, max: 9 },
  routes,
  migrations: [],
  policies: [
    { name: 'thing:list', check: '', description: '' },
    { name: 'thing:show', check: 'project_id:%(project_id)s', description: '' },
    { name: 'thing:create', check: 'role:member', description: '' },
  ],
}

test('requests find their routes and answers wear the headers of the service', async t => {
  const { call, url } = await testCloud(t, [service])
  const list = await call('GET /thing/v1/things?limit=3', { as: MEMBER })
  assert.equal(list.status, 200)
  assert.deepEqual(list.body, { limit: 3, project: 'p1' })
  assert.equal(list.headers.get('openstack-api-version'), 'things 1.1')
  assert.match(list.headers.get('x-openstack-request-id')!, /^req-[0-9a-f-]{36}$/)
  assert.equal((await call('GET /thing/v1/whatever/things/')).status, 200, 'the other mount, a trailing slash')
  assert.deepEqual((await call('GET /thing/')).body, { here: `${url}/thing/things` })
  assert.equal((await call('HEAD /thing/v1/things')).body, '')
  assert.equal((await call('GET /thing/v1/nothing')).status, 404)
  assert.equal((await call('GET /nothing')).status, 404)
  const wrong = await call('DELETE /thing/v1/things')
  assert.equal(wrong.status, 405)
  assert.equal(wrong.headers.get('allow'), 'GET, POST')
})

test('versions are negotiated', async t => {
  const { call } = await testCloud(t, [service])
  const at = (v: string) =>
    call('POST /thing/v1/things', { headers: { 'OpenStack-API-Version': v }, body: { thing: { name: 'a', tag: 'x' } } })
  assert.equal((await at('things 1.4')).status, 400)
  assert.deepEqual((await at('compute 2.1, things 1.5')).body, { name: 'a', version: 5 })
  assert.deepEqual((await at('things latest')).body.version, 9)
  assert.equal((await at('things 1.10')).status, 406)
  assert.equal((await at('things x')).status, 400)
})

test('actions are told apart by the key of the body', async t => {
  const { call } = await testCloud(t, [service])
  const act = (body: unknown, v = '1.3') =>
    call('POST /thing/v1/things/1/action', { as: MEMBER, body, headers: { 'X-Things-Version': v } })
  assert.equal((await act({ start: null })).status, 202)
  assert.deepEqual((await act({ stop: null })).body, { stopped: true })
  assert.equal((await act({ stop: null }, '1.2')).status, 400)
  assert.equal((await act({ stop: 1 })).status, 400)
  assert.match((await act({ jump: 1 })).body.badRequest.message, /no such action: jump/)
  assert.equal((await act([])).status, 400)
})

test('who may not, is told so before the body is looked at', async t => {
  const { call, url } = await testCloud(t, [service])
  assert.equal((await call('GET /thing/v1/things/1', { as: FOREIGN })).status, 403)
  assert.equal((await call('GET /thing/v1/things/2', { as: MEMBER })).status, 404)
  assert.equal((await call('POST /thing/v1/things', { as: { roles: ['reader'], projectId: 'p1' }, body: {} })).status, 403)
  const anonymous = await fetch(`${url}/thing/v1/things`)
  assert.equal(anonymous.status, 401)
  assert.match(anonymous.headers.get('www-authenticate')!, /^Keystone uri=/)
})

test('no bad input makes a 500', async t => {
  const { call } = await testCloud(t, [service])
  const bad: [unknown, number][] = [
    ['{', 400],
    ['"x"', 400],
    ['[]', 400],
    ['', 400],
    ['{"thing":{"name":"a\\u0000b"}}', 400],
    ['{"thing":{"name":"\\ud800"}}', 400],
    ['{"thing":{"name":1}}', 400],
    ['{"__proto__":{"thing":1}}', 400],
    [`{"thing":{"name":"${'x'.repeat(200_000)}"}}`, 413],
  ]
  for (const [body, status] of bad)
    assert.equal((await call('POST /thing/v1/things', { body })).status, status, String(body).slice(0, 40))
  assert.equal(
    (await call('POST /thing/v1/things', { body: 'a=b', headers: { 'content-type': 'application/x-www-form-urlencoded' } }))
      .status,
    415,
  )
  assert.equal((await call('GET /thing/v1/things?limit=x')).status, 400)
  assert.equal((await call('GET /thing/v1/things?limit=1%00')).status, 400)
  assert.equal((await call('GET /thing/v1/things?nope=1')).status, 400)
  assert.equal((await call('GET /thing/v1/things/%ff')).status, 404)
  const broken = await call('GET /thing/v1/broken')
  assert.equal(broken.status, 500)
  assert.doesNotMatch(JSON.stringify(broken.body), /secret/)
  assert.equal((await call('GET /thing/v1/bad')).headers.get('x-a'), 'b')
})

test('what loses against other requests for too long is told to try again', async t => {
  const { call } = await testCloud(t, [service])
  // A statement's time is over (it waited for a lock), a deadlock that many runs met, a transaction that was idle.
  for (const code of ['57014', '40P01', '25P03']) {
    const answer = await call(`PUT /thing/v1/late/${code}`)
    assert.equal(answer.status, 503, code)
    assert.equal(answer.headers.get('retry-after'), '1')
  }
  assert.equal((await call('PUT /thing/v1/late/23505')).status, 409)
})

test('raw bodies stream both ways', async t => {
  const { call } = await testCloud(t, [service])
  assert.deepEqual((await call('PUT /thing/v1/blob', { body: 'y'.repeat(300_000) })).body, { size: 300_000 })
  const got = await call('GET /thing/v1/blob')
  assert.equal(got.body, 'abc')
  assert.equal(got.headers.get('content-type'), 'text/x')
})

test('a client that breaks off in the middle of a body harms nobody', async t => {
  const { call, url } = await testCloud(t, [service])
  const { port } = new URL(url)
  const req = request({
    port,
    method: 'POST',
    path: '/thing/v1/things',
    headers: { 'x-auth-token': '{"roles":["member"]}', 'content-length': 100 },
  })
  req.on('error', () => {})
  req.write('{')
  await new Promise(resolve => setTimeout(resolve, 20))
  req.destroy()
  assert.equal((await call('GET /thing/v1/things')).status, 200)
})
