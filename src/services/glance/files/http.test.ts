import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type Socket } from 'node:net'
import { test } from 'node:test'
import { httpRead } from './http.ts'

test('a server of HTTP/1.0 that hangs up before its body was read', async t => {
  const size = 1 << 16
  const server = createServer((socket: Socket) => {
    socket.once('data', () => {
      socket.write(`HTTP/1.0 200 OK\r\nContent-Length: ${size}\r\n\r\n`)
      socket.end(Buffer.alloc(size, 1))
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => new Promise(resolve => server.close(resolve)))
  const { port } = server.address() as { port: number }
  const connected = once(server, 'connection')
  const body = await httpRead(`http://127.0.0.1:${port}/`)
  const [socket] = (await connected) as [Socket]
  if (!socket.writableFinished) await once(socket, 'finish')
  let got = 0
  for await (const chunk of body) got += chunk.length
  assert.equal(got, size)
  await assert.rejects(httpRead('http://127.0.0.1:1/'), /cannot be reached/)
})
