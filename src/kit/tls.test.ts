import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import { once } from 'node:events'
import { createServer, get } from 'node:https'
import type { AddressInfo } from 'node:net'
import { type TestContext, test } from 'node:test'
import { caCreate, certCovers, certFingerprint, certIssue } from './tls.ts'

async function serve(t: TestContext, tls: { key: string; cert: string }): Promise<number> {
  const server = createServer(tls, (_, res) => res.end('hello'))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.close()
    server.closeAllConnections()
  })
  return (server.address() as AddressInfo).port
}

function status(port: number, ca: string | undefined, servername?: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const options = { host: '127.0.0.1', port, ca, servername, agent: false }
    get(options, response => resolve(response.resume().statusCode!)).once('error', reject)
  })
}

test('a certificate of the own authority is believed by who knows it, for its names only', async t => {
  const ca = caCreate('Nubo test')
  const port = await serve(t, certIssue(ca, ['cloud.example', '127.0.0.1', 'fd00::1']))
  assert.equal(await status(port, ca.cert), 200)
  assert.equal(await status(port, ca.cert, 'cloud.example'), 200)
  await assert.rejects(status(port, ca.cert, 'other.example'), /ALTNAME|does not match/i)
  await assert.rejects(status(port, undefined), /self-signed|unable to/i)
  await assert.rejects(status(port, caCreate('Nubo test').cert), /certificate|signature/i, 'another authority of the same name')
})

test('what is issued reads back', () => {
  const ca = caCreate('Nubo test')
  const authority = new X509Certificate(ca.cert)
  assert(authority.ca && authority.verify(authority.publicKey))
  for (let i = 0; i < 50; i++) {
    const { cert, key } = certIssue(ca, ['a.example', '10.0.0.1'], 30)
    const leaf = new X509Certificate(cert)
    assert(leaf.verify(authority.publicKey) && leaf.checkIssued(authority) && !leaf.ca)
    assert.equal(leaf.subjectAltName, 'DNS:a.example, IP Address:10.0.0.1')
    assert.match(key, /BEGIN PRIVATE KEY/)
    assert(certCovers(cert, ['a.example', '10.0.0.1'], 29))
    assert(!certCovers(cert, ['a.example'], 31) && !certCovers(cert, ['b.example'], 1) && !certCovers(cert, ['10.0.0.2'], 1))
  }
  assert.equal(certFingerprint(ca.cert).length, 43)
  assert.throws(() => certIssue(ca, []), /needs a name/)
})

test('long lives are written as RFC 5280 wants', () => {
  const ca = caCreate('Nubo test')
  const cert = new X509Certificate(certIssue(ca, ['a'], 365 * 40).cert)
  assert.equal(cert.validToDate.getUTCFullYear(), new Date(Date.now() + 365 * 40 * 86_400_000).getUTCFullYear())
})
