import assert from 'node:assert/strict'
import { createHash, createHmac } from 'node:crypto'
import { type TestContext, test } from 'node:test'
import { crc32 } from 'node:zlib'
import { type Answer, testStore } from '../test-store.ts'

const sha = (text: string): string => createHash('sha256').update(text).digest('hex')
const hmac = (key: string | Buffer, text: string): Buffer => createHmac('sha256', key).update(text).digest()

interface Signer {
  /** A request signed by headers, version 4; `sum` is what it says of its body. */
  ask(method: string, path: string, options?: { sum?: string; headers?: Record<string, string>; body?: string }): Promise<Answer>
  code(...asked: Parameters<Signer['ask']>): Promise<string>
}

async function signer(t: TestContext): Promise<Signer> {
  const store = await testStore(t, {
    settings: { s3: { region: 'us-east-1', domain: null, minPartSize: 5, maxParts: 100, checkClock: 900 } },
  })
  const ask: Signer['ask'] = (method, target, { sum, headers = {}, body } = {}) => {
    const [path, query = ''] = target.split('?')
    const time = new Date().toISOString().replace(/[-:]|\.\d+/g, '')
    const scope = `${time.slice(0, 8)}/us-east-1/s3/aws4_request`
    const all: Record<string, string> = {
      host: `127.0.0.1:${store.port}`,
      'x-amz-date': time,
      ...headers,
      ...(sum === '' ? {} : { 'x-amz-content-sha256': sum ?? sha(body ?? '') }),
    }
    const names = Object.keys(all).sort()
    const canonical = [
      method,
      path,
      query && `${query}=`,
      ...names.map(name => `${name}:${all[name]}`),
      '',
      names.join(';'),
      all['x-amz-content-sha256'] ?? 'UNSIGNED-PAYLOAD',
    ].join('\n')
    const key = scope.split('/').reduce((key: string | Buffer, part) => hmac(key, part), 'AWS4testing') as Buffer
    const signature = hmac(key, ['AWS4-HMAC-SHA256', time, scope, sha(canonical)].join('\n')).toString('hex')
    const authorization = `AWS4-HMAC-SHA256 Credential=test:tester/${scope}, SignedHeaders=${names.join(';')}, Signature=${signature}`
    return store.raw(method, target, { ...all, authorization }, body)
  }
  assert.equal((await ask('PUT', '/box')).status, 200)
  const code: Signer['code'] = async (...asked) => /<Code>(.*)<\/Code>/.exec((await ask(...asked)).text)?.[1] ?? 'none'
  return { ask, code }
}

const crc = (text: string): string => {
  const out = Buffer.alloc(4)
  out.writeUInt32BE(crc32(text))
  return out.toString('base64')
}

test('a body is what its request says, or nothing of it is kept', async t => {
  const { ask, code } = await signer(t)
  const large = 'x'.repeat(300_000)
  for (const body of ['small', large]) {
    assert.equal(await code('PUT', '/box/o', { body, sum: sha('other') }), 'XAmzContentSHA256Mismatch')
    assert.equal(await code('PUT', '/box/o', { body, headers: { 'x-amz-checksum-crc32': crc('other') } }), 'BadDigest')
    const md5 = createHash('md5').update('other').digest()
    const bad = await ask('PUT', '/box/o', { body, headers: { 'content-md5': md5.toString('base64') } })
    assert.match(bad.text, new RegExp(`<Code>BadDigest<.*<ExpectedDigest>${md5.toString('hex')}<`))
    assert.equal((await ask('GET', '/box/o')).status, 404)
    assert.equal((await ask('PUT', '/box/o', { body, headers: { 'x-amz-checksum-crc32': crc(body) } })).status, 200)
    assert.equal((await ask('GET', '/box/o')).text, body)
    assert.equal((await ask('DELETE', '/box/o')).status, 204)
  }
  // the check value of CRC-32C
  const castagnoli = Buffer.from('e3069283', 'hex').toString('base64')
  const headers = { 'x-amz-checksum-crc32c': castagnoli }
  assert.equal((await ask('PUT', '/box/o', { body: '123456789', headers })).status, 200)
  assert.equal(await code('PUT', '/box/o', { sum: sha('other') }), 'XAmzContentSHA256Mismatch')
  assert.equal((await ask('GET', '/box/o', { sum: sha('other') })).text, '123456789')
})

test('what is said of a body must make sense', async t => {
  const { code } = await signer(t)
  const put = (headers: Record<string, string>, sum?: string) => code('PUT', '/box/o', { body: 'x', headers, sum })
  assert.equal(await put({}, ''), 'InvalidRequest')
  assert.equal(await put({}, 'nonsense'), 'InvalidArgument')
  assert.equal(await put({}, 'STREAMING-UNSIGNED-PAYLOAD-TRAILER'), 'MissingContentLength')
  assert.equal(await put({ 'content-md5': 'AAAA' }), 'InvalidDigest')
  assert.equal(await put({ 'x-amz-checksum-crc32': 'AAAA' }), 'InvalidRequest')
  assert.equal(await put({ 'x-amz-checksum-md2': 'AAAA' }), 'InvalidRequest')
  assert.equal(await put({ 'x-amz-checksum-crc64nvme': 'AAAAAAAAAAA=' }), 'NotImplemented')
  assert.equal(await put({ 'x-amz-checksum-crc32': crc('x'), 'x-amz-checksum-sha1': 'AAAA' }), 'InvalidRequest')
  assert.equal(await put({ 'x-amz-sdk-checksum-algorithm': 'CRC32' }), 'InvalidRequest')
  assert.equal(await put({ 'x-amz-tagging': 'a=b' }), 'NotImplemented')
  assert.equal(await put({ 'x-delete-at': 'never' }), 'InvalidArgument')
})

test('a checksum behind the last chunk', async t => {
  const { ask, code } = await signer(t)
  const chunked = (trailer: string) => ({
    sum: 'STREAMING-UNSIGNED-PAYLOAD-TRAILER',
    headers: { 'x-amz-decoded-content-length': '5', 'content-encoding': 'aws-chunked', 'x-amz-trailer': 'x-amz-checksum-crc32' },
    body: `5\r\nhello\r\n0\r\n${trailer}\r\n`,
  })
  assert.equal(await code('PUT', '/box/o', chunked(`x-amz-checksum-crc32:${crc('other')}\r\n`)), 'BadDigest')
  assert.equal(await code('PUT', '/box/o', chunked('x-amz-checksum-crc32:nonsense\r\n')), 'InvalidRequest')
  assert.equal(await code('PUT', '/box/o', chunked('x-amz-other:a\r\n')), 'MalformedTrailerError')
  assert.equal(await code('PUT', '/box/o', chunked('')), 'MalformedTrailerError')
  assert.equal((await ask('GET', '/box/o')).status, 404)
  assert.equal((await ask('PUT', '/box/o', chunked(`x-amz-checksum-crc32:${crc('hello')}\r\n`))).status, 200)
  const open = chunked(`x-amz-checksum-crc32:${crc('hello')}\r\n`)
  assert.equal((await ask('PUT', '/box/o', { ...open, body: open.body.slice(0, -2) })).status, 200)
  const { text, headers } = await ask('GET', '/box/o')
  assert.deepEqual([text, headers['content-encoding']], ['hello', undefined])
})

test('conditions: only what is new; other conditions of writes are not known', async t => {
  const { ask, code } = await signer(t)
  const put = (headers: Record<string, string>) => code('PUT', '/box/o', { body: 'x', headers })
  assert.equal(await put({ 'if-match': '"a"' }), 'NotImplemented')
  assert.equal(await put({ 'if-none-match': '"a"' }), 'NotImplemented')
  assert.equal(await put({ 'if-none-match': '*' }), 'none')
  assert.equal(await put({ 'if-none-match': '*' }), 'PreconditionFailed')
  const id = /<UploadId>(.*)<\/UploadId>/.exec((await ask('POST', '/box/o?uploads')).text)![1]
  assert.ok(id)
})

test('HEAD of a range, the end of an object, a copy by what is no version', async t => {
  const { ask, code } = await signer(t)
  const end = Math.floor(Date.now() / 1000) + 1000
  await ask('PUT', '/box/o', { body: '0123456789', headers: { 'x-delete-at': String(end) } })
  const part = await ask('HEAD', '/box/o', { headers: { range: 'bytes=1-5' } })
  assert.deepEqual([part.status, part.headers['content-length'], part.headers['content-range']], [206, '5', 'bytes 1-5/10'])
  assert.equal(
    part.headers['x-amz-expiration'],
    `expiry-date="${new Date(end * 1000).toUTCString()}", rule-id="swift-object-expiration"`,
  )
  assert.equal((await ask('HEAD', '/box/o', { headers: { range: 'bytes=10-' } })).status, 416)
  assert.equal(await code('PUT', '/box/p', { headers: { 'x-amz-copy-source': '/box/o?nonsense' } }), 'InvalidArgument')
})
