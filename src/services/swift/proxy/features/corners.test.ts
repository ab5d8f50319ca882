import assert from 'node:assert/strict'
import { createHmac } from 'node:crypto'
import { test } from 'node:test'
import { login, testStore } from '../../test-store.ts'

test('an old version is copied back, ends with nobody but itself, and pages begin behind any version', async t => {
  const store = await testStore(t)
  await store.call('PUT', '/v', { 'x-versions-enabled': 'true' })
  const put = async (name: string, body: string): Promise<string> =>
    (await store.call('PUT', `/v/${name}`, { 'content-type': 'text/x' }, body)).headers['x-object-version-id']
  const [one, two] = [await put('a', 'one'), await put('a', 'two')]
  await put('b', 'bee')
  const copied = await store.call('COPY', `/v/a?version-id=${one}`, { destination: 'v/a' })
  assert.equal(copied.status, 201)
  assert.equal((await store.call('GET', '/v/a')).text, 'one')
  const page = async (query: string): Promise<unknown[]> =>
    ((await store.call('GET', `/v?versions&format=json&${query}`)).json() as { name: string; version_id: string }[]).map(row =>
      row.version_id === copied.headers['x-object-version-id'] ? 'copied' : row.version_id === two ? 'two' : row.name,
    )
  assert.deepEqual(await page(`marker=a&version_marker=${two}&reverse=true`), ['copied'])
  assert.deepEqual(await page('marker=a&version_marker=null'), ['copied', 'two', 'a', 'b'])
  const [row] = (await store.call('GET', '/v?format=json')).json() as Record<string, unknown>[]
  assert.deepEqual([row.version_symlink, row.symlink_bytes, row.bytes], [true, undefined, 3])

  const later = Math.ceil(Date.now() / 1000) + 1
  const posted = await store.call('POST', '/v/b', { 'x-delete-at': String(later), 'x-object-meta-color': 'red' })
  assert.equal(posted.status, 202)
  const version = await store.call('HEAD', `/v/b?version-id=${posted.headers['x-object-version-id']}`)
  assert.deepEqual([version.headers['x-delete-at'], version.headers['x-object-meta-color']], [undefined, 'red'])
  assert.equal((await store.call('HEAD', '/v/b?symlink=get')).headers['x-delete-at'], String(later))
})

test('the old style of versions: to delete the null version brings the last one back', async t => {
  const store = await testStore(t)
  await store.call('PUT', '/old')
  await store.call('PUT', '/c', { 'x-versions-location': 'old' })
  for (const body of ['one', 'two']) await store.call('PUT', '/c/o', {}, body)
  assert.equal((await store.call('DELETE', '/c/o?version-id=null')).status, 204)
  assert.equal((await store.call('GET', '/c/o')).text, 'one')
})

test('a copy of a link may lead into another account', async t => {
  const store = await testStore(t)
  const other = await login(store.raw, 'admin:admin')
  await store.call('PUT', '/c')
  await store.call('PUT', '/c/target', {}, 'target')
  await store.call('PUT', '/c/link', { 'x-symlink-target': 'c/target' })
  const mine = (method: string, path: string, headers = {}) =>
    store.raw(method, `/v1/AUTH_admin${path}`, { 'x-auth-token': other, ...headers })
  await mine('PUT', '/c')
  const copied = await mine('PUT', '/c/link?symlink=get', {
    'x-copy-from': 'c/link',
    'x-copy-from-account': 'AUTH_test',
    'x-symlink-target-account': 'AUTH_test',
  })
  assert.equal(copied.status, 201)
  assert.equal((await mine('GET', '/c/link')).text, 'target')
})

test('manifests within manifests end after ten', async t => {
  const store = await testStore(t)
  await store.call('PUT', '/c')
  await store.call('PUT', '/c/0', {}, 'deep')
  for (let i = 1; i <= 11; i++)
    await store.call('PUT', `/c/${i}?multipart-manifest=put`, {}, JSON.stringify([{ path: `/c/${i - 1}` }]))
  assert.equal((await store.call('GET', '/c/10')).text, 'deep')
  const eleven = await store.call('GET', '/c/11')
  assert.deepEqual([eleven.status, eleven.text.includes('Conflict')], [409, true])
})

test('a prefix that is written in bytes and percents names the same segments', async t => {
  const store = await testStore(t)
  await store.call('PUT', '/c')
  await store.call('PUT', '/c/%E1%A0%84_%25ff_1', {}, 'first')
  const bytes = Buffer.from('c/\u1804_%25ff').toString('latin1')
  await store.call('PUT', '/c/all', { 'x-object-manifest': bytes })
  assert.equal((await store.call('GET', '/c/all')).text, 'first')
})

test('a temporary URL of a whole container opens its pages and nothing else', async t => {
  const store = await testStore(t)
  await store.call('POST', '', { 'x-account-meta-temp-url-key': 'key' })
  await store.call('PUT', '/c')
  await store.call('PUT', '/c/dir/obj', {}, 'x')
  const expires = Math.floor(Date.now() / 1000) + 100
  const signed = (prefix: string): string => {
    const sig = createHmac('sha256', 'key').update(`GET\n${expires}\nprefix:/v1/AUTH_test/c/${prefix}`).digest('hex')
    return `temp_url_prefix=${prefix}&temp_url_expires=${expires}&temp_url_sig=${sig}`
  }
  const get = (path: string, prefix = '') => store.raw('GET', `/v1/AUTH_test/c${path}?${signed(prefix)}`)
  assert.equal((await get('/')).status, 401)
  const css = Buffer.from('ü.css').toString('latin1')
  await store.call('POST', '/c', { 'x-container-meta-web-listings': 'true', 'x-container-meta-web-listings-css': css })
  assert.equal((await get('')).status, 301)
  const root = await get('/')
  assert.match(root.text, /href="%C3%BC.css"/)
  assert.ok(root.text.includes(`href="./dir/?${signed('').replaceAll('&', '&amp;')}"`))
  assert.ok(!root.text.includes('<a href="..'))
  assert.equal(root.headers['content-disposition'], 'inline')
  assert.ok((await get('/dir/')).text.includes(`href="../?${signed('').replaceAll('&', '&amp;')}"`))
  const limited = await get('/dir/', 'dir/')
  assert.deepEqual(
    [limited.status, limited.text.includes('<a href="..'), limited.text.includes('href="./obj?')],
    [200, false, true],
  )
  assert.equal((await get('/', 'dir/')).status, 401)
})

test('a path of one part is not a URL of the store', async t => {
  const store = await testStore(t)
  assert.equal((await store.raw('GET', '/info%20asdf')).status, 412)
})
