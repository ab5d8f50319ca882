import assert from 'node:assert/strict'
import { once } from 'node:events'
import { test } from 'node:test'
import { WebSocket } from 'ws'
import { MEMBER } from '#kit/http/test.ts'
import { computeCloud, IMAGE } from '../testing.ts'

const at = (version: string) => ({ 'openstack-api-version': `compute ${version}` })

test('a console opens once in a browser, and bytes go through to the guest', async t => {
  const { call, settled, url } = await computeCloud(t)
  const body = { server: { name: 'x', flavorRef: 'f1', imageRef: IMAGE, networks: 'none' } }
  const { id } = (await call('POST /compute/v2.1/servers', { as: MEMBER, body, headers: at('2.37') })).body.server
  await settled()
  const ask = (protocol: string, type: string, version = '2.6') =>
    call(`POST /compute/v2.1/servers/${id}/remote-consoles`, {
      as: MEMBER,
      body: { remote_console: { protocol, type } },
      headers: at(version),
    })
  const asked = await ask('vnc', 'novnc')
  assert.equal(asked.status, 200, JSON.stringify(asked.body))
  const page = new URL(asked.body.remote_console.url)
  const html = await (await fetch(page)).text()
  assert.match(html, /<html.*>[\s\S]*noVNC[\s\S]*<script[\s\S]*<\/html>/)
  const script = await fetch(new URL('./core/rfb.js', page))
  assert.equal(script.status, 200)
  assert.match(script.headers.get('content-type')!, /javascript/)
  await script.body?.cancel()
  assert.equal((await fetch(new URL('/compute/novnc/core/..%2f..%2fpackage.json', url))).status, 404)

  const path = page.searchParams.get('path')!
  const token = path.split('token=')[1]
  const found = await call(`GET /compute/v2.1/os-console-auth-tokens/${token}`, { headers: at('2.31') })
  assert.equal(found.body.console.instance_uuid, id)
  const dial = (at: string, origin?: string) =>
    new WebSocket(`${url.replace('http', 'ws')}/${at}`, ['binary'], origin ? { origin } : {})
  const refused = async (socket: WebSocket): Promise<number> => {
    const [, response] = await once(socket, 'unexpected-response')
    response.destroy()
    return response.statusCode
  }
  assert.equal(await refused(dial(path, 'http://evil.example')), 403)
  const socket = dial(path)
  const [greeting] = await once(socket, 'message')
  assert.match(greeting.toString('latin1'), /^RFB 003\.00\d\n/)
  assert.equal(socket.protocol, 'binary')
  assert.equal(await refused(dial(path)), 403)
  socket.send(Buffer.from('RFB 003.008\n'))
  const [security] = await once(socket, 'message')
  assert.ok(security.length >= 1)
  socket.close()
  await once(socket, 'close')

  const serial = await ask('serial', 'serial')
  assert.match(serial.body.remote_console.url, /^ws:.*\/compute\/serial\/websockify\?token=/)
  assert.equal((await ask('spice', 'spice-html5')).status, 501)
  assert.equal((await ask('rdp', 'rdp-html5')).status, 400)
  assert.equal((await ask('vnc', 'serial')).status, 400)
  assert.equal((await ask('mks', 'webmks', '2.6')).status, 400)
  const old = (body: object, version: string) =>
    call(`POST /compute/v2.1/servers/${id}/action`, { as: MEMBER, body, headers: at(version) })
  assert.equal((await old({ 'os-getVNCConsole': { type: 'novnc' } }, '2.1')).body.console.type, 'novnc')
  assert.equal((await old({ 'os-getVNCConsole': { type: 'novnc' } }, '2.6')).status, 400)
})
