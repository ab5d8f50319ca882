// Listening inside a network namespace without entering it.
//
// A socket belongs for ever to the namespace in which it was made, whoever holds it. So a child enters the namespace, makes the listening
// sockets there, hands them over by Node's own IPC (a file descriptor over a unix socket) and ends. What stays is one file descriptor a
// socket in this process: no helper per namespace (a Node process would be 40 MB, a haproxy 5), and the peer's address is that of the real
// sender, so there is no forwarding header that a sender could forge. It costs one start of Node (60 ms) when a namespace is first listened in.
import { spawn } from 'node:child_process'
import type { Server } from 'node:net'
import { placed } from '../run.ts'

export interface ListenAddress {
  /** Numeric address; of a link-local one with its link: 'fe80::1%eth0'. */
  host: string
  port: number
}

const CHILD = `
const { createServer } = require('node:net')
const addresses = JSON.parse(process.argv[1])
const fail = error => process.send({ error: error.message }, () => process.exit(1))
const next = at => {
  if (at === addresses.length) process.exit(0)
  const server = createServer().on('error', fail)
  server.listen({ ...addresses[at], backlog: 128 }, () => process.send({ at }, server, error => (error ? fail(error) : next(at + 1))))
}
next(0)
`

/**
 * Makes listening sockets in a namespace, in the order of `addresses`. They listen already: give them to `server.listen(handle)` at once.
 * @throws Error saying which address could not be had and why.
 */
export function listenIn(netns: string, addresses: readonly ListenAddress[], deadlineMs = 10_000): Promise<Server[]> {
  const [file = '', ...args] = placed([process.execPath, '--no-warnings', '-e', CHILD, JSON.stringify(addresses)], { netns })
  const child = spawn(file, args, { stdio: ['ignore', 'ignore', 'pipe', 'ipc'], env: { PATH: process.env.PATH } })
  const servers: Server[] = []
  let said = ''
  let failure: string | undefined
  child.stderr?.setEncoding('utf8').on('data', text => {
    said += text
  })
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      failure = `no answer after ${deadlineMs} ms`
      child.kill('SIGKILL')
    }, deadlineMs)
    child.on('message', (message: { at?: number; error?: string }, handle) => {
      if (message.error !== undefined) failure = message.error
      else servers.push(handle as Server)
    })
    child.on('error', error => {
      failure = error.message
    })
    child.on('close', () => {
      clearTimeout(timer)
      if (servers.length === addresses.length) return resolve(servers)
      for (const server of servers) server.close()
      const wanted = addresses.map(one => `${one.host} port ${one.port}`).join(', ')
      reject(new Error(`cannot listen on ${wanted} in namespace ${netns}: ${failure ?? said.trim()}`))
    })
  })
}
