import assert from 'node:assert/strict'
import { test } from 'node:test'
import { login, testStore } from '../../test-store.ts'

test('a manifest says which of its segments are wrong, also behind a heartbeat', async t => {
  const store = await testStore(t)
  await store.call('PUT', '/c')
  await store.call('PUT', '/c/s', {}, 'segment')
  const manifest = (paths: string[]): string => JSON.stringify(paths.map(path => ({ path })))
  const put = (name: string, paths: string[], query = '') =>
    store.call('PUT', `/c/${name}?multipart-manifest=put${query}`, { accept: 'application/json' }, manifest(paths))
  const itself = await put('s', ['/c/s'])
  assert.deepEqual([itself.status, itself.text], [400, 'Index 0: manifest must not include itself as a segment\n'])
  const good = await put('whole', ['/c/s'], '&heartbeat=on')
  assert.equal(good.status, 202)
  const { 'Response Status': created, Errors: none } = JSON.parse(good.text) as Record<string, unknown>
  assert.deepEqual([created, none], ['201 Created', []])
  const bad = JSON.parse((await put('bad', ['/c/none'], '&heartbeat=on')).text) as Record<string, unknown>
  assert.deepEqual([bad['Response Status'], bad.Errors], ['400 Bad Request', [['/c/none', '404 Not Found']]])
})

test('a segment that the reader may not see is a conflict; parts are told of the version that was asked for', async t => {
  const store = await testStore(t)
  const other = await login(store.raw, 'other:tester')
  await store.call('PUT', '/segments')
  await store.call('PUT', '/c', { 'x-container-read': 'other:tester', 'x-versions-enabled': 'true' })
  for (const name of ['a', 'b', 'c']) await store.call('PUT', `/segments/${name}`, {}, name.repeat(10))
  const put = (...names: string[]) =>
    store.call('PUT', '/c/o?multipart-manifest=put', {}, JSON.stringify(names.map(name => ({ path: `/segments/${name}` }))))
  const { headers: first } = await put('a', 'b', 'c')
  await put('a')
  assert.equal((await store.raw('GET', '/v1/AUTH_test/c/o', { 'x-auth-token': other })).status, 409)
  const old = await store.call('HEAD', `/c/o?version-id=${first['x-object-version-id']}&part-number=3`)
  assert.deepEqual([old.status, old.headers['content-range']], [206, 'bytes 20-29/30'])
  const beyond = await store.call('HEAD', '/c/o?part-number=2')
  assert.deepEqual([beyond.status, beyond.headers['content-length']], [416, '0'])
})
