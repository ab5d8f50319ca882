import assert from 'node:assert/strict'
import { createHmac } from 'node:crypto'
import { test } from 'node:test'
import { testStore } from '../test-store.ts'

test('S3 refusals say which thing is wrong', async t => {
  const store = await testStore(t, {
    settings: { s3: { region: 'us-east-1', domain: null, minPartSize: 5, maxParts: 100, checkClock: 900 } },
  })
  const s3 = (method: string, path: string, headers: Record<string, string> = {}, body?: string) => {
    const date = new Date().toUTCString()
    const amz = Object.entries(headers).map(([name, value]) => `${name}:${value}\n`)
    const text = `${method}\n\n\n${date}\n${amz.sort().join('')}${path}`
    const signature = createHmac('sha1', 'testing').update(text).digest('base64')
    return store.raw(method, path, { ...headers, date, authorization: `AWS test:tester:${signature}` }, body)
  }
  const code = async (...asked: Parameters<typeof s3>): Promise<string> =>
    /<Code>(.*)<\/Code>/.exec((await s3(...asked)).text)?.[1] ?? 'none'
  assert.equal((await s3('PUT', '/box')).status, 200)
  assert.equal((await s3('PUT', '/box/a', {}, 'hello')).status, 200)
  assert.equal(await code('GET', '/in+valid'), 'InvalidBucketName')
  assert.equal(await code('GET', '/nowhere/o?uploadId=x'), 'NoSuchBucket')
  assert.equal(await code('GET', '/box/o?uploadId=x'), 'NoSuchUpload')
  assert.equal(await code('POST', `/box/${'k'.repeat(1025)}?uploads`), 'KeyTooLongError')
  const copy = (directive: string) =>
    s3('PUT', '/box/b', { 'x-amz-copy-source': '/box/a', 'x-amz-metadata-directive': directive })
  assert.match((await copy('MAYBE')).text, /<Code>InvalidArgument<\/Code>.*<ArgumentName>x-amz-metadata-directive/)
  const [, time] = /<LastModified>(.*?)<\/LastModified>/.exec((await copy('COPY')).text)!
  assert.match((await s3('GET', '/box')).text, new RegExp(`<Key>b</Key><LastModified>${time}`))
})
