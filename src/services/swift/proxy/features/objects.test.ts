import assert from 'node:assert/strict'
import { test } from 'node:test'
import { login, testStore } from '../../test-store.ts'

test('an object comes back with its metadata, by ranges and under conditions', async t => {
  const store = await testStore(t)
  assert.equal((await store.call('PUT', '/c')).status, 201)
  assert.equal((await store.call('PUT', '/c')).status, 202)
  const put = await store.call(
    'PUT',
    '/c/a%2Fb%20%C3%BC',
    { 'content-type': 'text/x', 'x-object-meta-color': 'red', etag: '5d41402abc4b2a76b9719d911017c592' },
    'hello',
  )
  assert.equal(put.status, 201)
  assert.equal(put.headers.etag, '5d41402abc4b2a76b9719d911017c592')
  const got = await store.call('GET', '/c/a/b%20%C3%BC')
  assert.deepEqual(
    [got.status, got.text, got.headers['content-type'], got.headers['x-object-meta-color']],
    [200, 'hello', 'text/x', 'red'],
  )
  const part = await store.call('GET', '/c/a/b%20%C3%BC', { range: 'bytes=1-2' })
  assert.deepEqual([part.status, part.text, part.headers['content-range']], [206, 'el', 'bytes 1-2/5'])
  const parts = await store.call('GET', '/c/a/b%20%C3%BC', { range: 'bytes=0-0,-1' })
  assert.match(parts.headers['content-type'], /^multipart\/byteranges;boundary=/)
  assert.equal(Number(parts.headers['content-length']), parts.body.length)
  assert.match(parts.text, /bytes 0-0\/5\r\n\r\nh\r\n[\s\S]*bytes 4-4\/5\r\n\r\no\r\n/)
  assert.equal((await store.call('GET', '/c/a/b%20%C3%BC', { range: 'bytes=9-' })).status, 416)
  assert.equal((await store.call('GET', '/c/a/b%20%C3%BC', { 'if-none-match': put.headers.etag })).status, 304)
  assert.equal((await store.call('GET', '/c/a/b%20%C3%BC', { 'if-match': '"no"' })).status, 412)
  assert.equal((await store.call('GET', '/c/a/b%20%C3%BC', { 'if-modified-since': got.headers['last-modified'] })).status, 304)
  assert.equal((await store.call('PUT', '/c/a/b%20%C3%BC', { 'if-none-match': '*' }, 'x')).status, 412)
  assert.equal((await store.call('PUT', '/c/wrong', { etag: '0'.repeat(32) }, 'x')).status, 422)
  assert.equal((await store.call('GET', '/c/wrong')).status, 404)
})

test('POST replaces metadata, COPY carries it, DELETE ends it', async t => {
  const store = await testStore(t)
  await store.call('PUT', '/c')
  await store.call('PUT', '/c/o', { 'x-object-meta-a': '1', 'content-type': 'text/plain' }, 'data')
  assert.equal((await store.call('POST', '/c/o', { 'x-object-meta-b': '2' })).status, 202)
  const head = await store.call('HEAD', '/c/o')
  assert.deepEqual(
    [
      head.headers['x-object-meta-a'],
      head.headers['x-object-meta-b'],
      head.headers['content-type'],
      head.headers['content-length'],
    ],
    [undefined, '2', 'text/plain', '4'],
  )
  const copied = await store.call('COPY', '/c/o', { destination: 'c/p', 'x-object-meta-c': '3' })
  assert.deepEqual([copied.status, copied.headers['x-copied-from']], [201, 'c/o'])
  const target = await store.call('GET', '/c/p')
  assert.deepEqual([target.text, target.headers['x-object-meta-b'], target.headers['x-object-meta-c']], ['data', '2', '3'])
  assert.equal((await store.call('PUT', '/c/q', { 'x-copy-from': '/c/none' })).status, 404)
  assert.equal((await store.call('DELETE', '/c')).status, 409)
  assert.equal((await store.call('DELETE', '/c/o')).status, 204)
  assert.equal((await store.call('DELETE', '/c/o')).status, 404)
  assert.equal((await store.call('GET', '/c/o')).status, 404)
})

test('listings roll up at a delimiter, page, turn round and come in three formats', async t => {
  const store = await testStore(t)
  await store.call('PUT', '/c')
  for (const name of ['a', 'b/1', 'b/2', 'c/x/1', 'd']) await store.call('PUT', `/c/${name}`, {}, 'x')
  assert.equal((await store.call('GET', '/c')).text, 'a\nb/1\nb/2\nc/x/1\nd\n')
  assert.equal((await store.call('GET', '/c?delimiter=/')).text, 'a\nb/\nc/\nd\n')
  assert.equal((await store.call('GET', '/c?delimiter=/&reverse=on')).text, 'd\nc/\nb/\na\n')
  assert.equal((await store.call('GET', '/c?delimiter=/&prefix=b/')).text, 'b/1\nb/2\n')
  assert.equal((await store.call('GET', '/c?delimiter=/&marker=b/&limit=1')).text, 'c/\n')
  assert.equal((await store.call('GET', '/c?delimiter=x/')).text, 'a\nb/1\nb/2\nc/x/\nd\n')
  assert.equal((await store.call('GET', '/c?path=c')).text, '')
  assert.equal((await store.call('GET', '/c?path=b')).text, 'b/1\nb/2\n')
  const json = (await store.call('GET', '/c?format=json&limit=1')).json() as Record<string, unknown>[]
  assert.deepEqual([json[0].name, json[0].bytes, json[0].hash], ['a', 1, '9dd4e461268c8034f5c8564e155c67a6'])
  const xml = await store.call('GET', '/c?format=xml&prefix=a')
  assert.match(xml.text, /^<\?xml version="1.0" encoding="UTF-8"\?>\n<container name="c"><object><name>a<\/name>/)
  assert.equal((await store.call('GET', '/c?limit=10001')).status, 412)
  const account = await store.call('HEAD', '')
  assert.equal(account.headers['x-account-container-count'], '1')
})

test('strangers are kept out, lists let in', async t => {
  const store = await testStore(t)
  const other = await login(store.raw, 'other:tester')
  await store.call('PUT', '/c')
  await store.call('PUT', '/c/o', {}, 'x')
  const get = (headers: Record<string, string>) => store.raw('GET', '/v1/AUTH_test/c/o', headers)
  assert.equal((await get({})).status, 401)
  assert.equal((await get({ 'x-auth-token': 'AUTH_tkfalse.no' })).status, 401)
  assert.equal((await get({ 'x-auth-token': other })).status, 403)
  await store.call('POST', '/c', { 'x-container-read': 'other:tester' })
  assert.equal((await get({ 'x-auth-token': other })).status, 200)
  assert.equal((await store.raw('PUT', '/v1/AUTH_test/c/o', { 'x-auth-token': other }, 'y')).status, 403)
  await store.call('POST', '/c', { 'x-container-read': '.r:*' })
  assert.equal((await get({})).status, 200)
  assert.equal((await store.raw('GET', '/v1/AUTH_test/c')).status, 401)
  assert.equal((await store.call('POST', '/c', { 'x-container-write': '.r:*' })).status, 400)
})

test('requests that are wrong leave nothing', async t => {
  const store = await testStore(t)
  await store.call('PUT', '/c')
  assert.equal((await store.call('PUT', '/c/%00x', {}, 'x')).status, 412)
  assert.equal((await store.call('PUT', '/c/%ff', {}, 'x')).status, 412)
  assert.equal((await store.call('PUT', `/c/${'n'.repeat(1025)}`, {}, 'x')).status, 400)
  assert.equal((await store.call('PUT', `/${'n'.repeat(257)}`)).status, 400)
  assert.equal((await store.call('PUT', '/c/o', { 'x-object-meta-': 'x' }, 'x')).status, 400)
  assert.equal((await store.call('PUT', '/c/o', { 'x-object-meta-a': 'v'.repeat(257) }, 'x')).status, 400)
  assert.equal((await store.call('PUT', '/c/o', { 'x-delete-at': '1' }, 'x')).status, 400)
  assert.equal((await store.call('PUT', '/none/o', {}, 'x')).status, 404)
  assert.equal((await store.call('GET', '/c')).text, '')
})

test('dynamic and static large objects', async t => {
  const store = await testStore(t)
  await store.call('PUT', '/c')
  const part = 'x'.repeat(100_000)
  await store.call('PUT', '/c/s/1', {}, part)
  await store.call('PUT', '/c/s/2', {}, 'tail')
  await store.call('PUT', '/c/dlo', { 'x-object-manifest': 'c/s/' }, '')
  const dlo = await store.call('GET', '/c/dlo')
  assert.equal(dlo.text, `${part}tail`)
  assert.equal((await store.call('GET', '/c/dlo', { range: 'bytes=99999-100001' })).text, 'xta')
  const [one, two] = await Promise.all([store.call('HEAD', '/c/s/1'), store.call('HEAD', '/c/s/2')])
  const manifest = JSON.stringify([
    { path: '/c/s/1', etag: one.headers.etag, size_bytes: 100_000 },
    { path: '/c/s/2', etag: two.headers.etag, range: '1-2' },
    { data: Buffer.from('!').toString('base64') },
  ])
  const put = await store.call('PUT', '/c/slo?multipart-manifest=put', { 'content-type': 'text/big' }, manifest)
  assert.equal(put.status, 201)
  const slo = await store.call('GET', '/c/slo')
  assert.deepEqual(
    [slo.text, slo.headers.etag, slo.headers['content-type'], slo.headers['x-static-large-object']],
    [`${part}ai!`, put.headers.etag, 'text/big', 'True'],
  )
  assert.equal((await store.call('GET', '/c/slo', { range: 'bytes=-3' })).text, 'ai!')
  assert.equal((await store.call('HEAD', '/c/slo')).headers['content-length'], '100003')
  assert.equal((await store.call('GET', '/c/slo', { 'if-none-match': put.headers.etag })).status, 304)
  const rows = (await store.call('GET', '/c?format=json&prefix=slo')).json() as Record<string, unknown>[]
  assert.deepEqual([rows[0].bytes, rows[0].content_type], [100_003, 'text/big'])
  assert.equal((await store.call('PUT', '/c/bad?multipart-manifest=put', {}, JSON.stringify([{ path: '/c/none' }]))).status, 400)
  const copied = await store.call('COPY', '/c/slo', { destination: 'c/plain' })
  assert.equal(copied.status, 201)
  const plain = await store.call('GET', '/c/plain')
  assert.deepEqual([plain.text.length, plain.headers['x-static-large-object']], [100_003, undefined])
  const gone = await store.call('DELETE', '/c/slo?multipart-manifest=delete', { accept: 'application/json' })
  assert.deepEqual((gone.json() as Record<string, unknown>)['Number Deleted'], 3)
})

test('links, versions in both styles', async t => {
  const store = await testStore(t)
  await store.call('PUT', '/c')
  await store.call('PUT', '/c/target', {}, 'first')
  assert.equal((await store.call('PUT', '/c/link', { 'x-symlink-target': 'c/target' }, '')).status, 201)
  assert.equal((await store.call('GET', '/c/link')).text, 'first')
  assert.equal((await store.call('HEAD', '/c/link?symlink=get')).headers['x-symlink-target'], 'c/target')
  assert.equal((await store.call('POST', '/c/link', { 'x-object-meta-a': 'b' })).status, 307)
  assert.equal(
    (await store.call('PUT', '/c/bad', { 'x-symlink-target': 'c/target', 'x-symlink-target-etag': 'no' }, '')).status,
    409,
  )

  await store.call('PUT', '/old')
  await store.call('PUT', '/stack', { 'x-versions-location': 'old' })
  for (const text of ['1', '2', '3']) await store.call('PUT', '/stack/o', {}, text)
  assert.equal((await store.call('GET', '/old')).text.split('\n').length, 3)
  await store.call('DELETE', '/stack/o')
  assert.equal((await store.call('GET', '/stack/o')).text, '2')

  assert.equal((await store.call('PUT', '/v')).status, 201)
  await store.call('PUT', '/v/o', {}, 'zero')
  assert.equal((await store.call('POST', '/v', { 'x-versions-enabled': 'true' })).status, 204)
  const first = await store.call('PUT', '/v/o', {}, 'one')
  const second = await store.call('PUT', '/v/o', {}, 'two')
  assert.equal((await store.call('GET', '/v/o')).text, 'two')
  assert.equal((await store.call('GET', '/v/o')).headers['x-object-version-id'], second.headers['x-object-version-id'])
  assert.equal((await store.call('GET', `/v/o?version-id=${first.headers['x-object-version-id']}`)).text, 'one')
  const list = (await store.call('GET', '/v?versions&format=json')).json() as Record<string, unknown>[]
  assert.deepEqual(
    list.map(row => [row.name, row.is_latest, row.bytes]),
    [
      ['o', true, 3],
      ['o', false, 3],
      ['o', false, 4],
    ],
  )
  const row = ((await store.call('GET', '/v?format=json')).json() as Record<string, unknown>[])[0]
  assert.deepEqual([row.bytes, row.hash], [3, second.headers.etag])
  const deleted = await store.call('DELETE', '/v/o')
  assert.equal((await store.call('GET', '/v/o')).status, 404)
  assert.equal((await store.call('DELETE', `/v/o?version-id=${deleted.headers['x-object-version-id']}`)).status, 204)
  assert.equal((await store.call('PUT', `/v/o?version-id=${first.headers['x-object-version-id']}`, {}, '')).status, 201)
  assert.equal((await store.call('GET', '/v/o')).text, 'one')
  assert.equal((await store.call('DELETE', '/v')).status, 409)
})
