/**
 * A qemu for tests of the guest image: user-mode network, the serial console read line by line, QMP for hotplug, ssh through a forwarded
 * port. Plain qemu on purpose: a fault of the cloud's own driver must not hide one of the image.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { run } from '#host/run.ts'

const RELAY = fileURLToPath(new URL('./relay.ts', import.meta.url))

export interface MachineOptions {
  /** A folder for its sockets. */
  folder: string
  /** Without a network interface. */
  isolated?: boolean
  /** Everything but memory, processor, console and network. */
  args: readonly string[]
  /** Port of a metadata service on this host; with it the network is 169.254.0.0/16, for user-mode qemu has no routes. */
  metadataPort?: number
  /** The guest's address where it does not take the one that DHCP offers. */
  address?: string
}

export interface Machine {
  /** Resolves with the first whole line of the console, from the start on, that matches. */
  line(pattern: RegExp, timeoutMs?: number): Promise<string>
  /** The same, and the line need not have ended. */
  prompt(pattern: RegExp, timeoutMs?: number): Promise<string>
  console(): string
  qmp<T = unknown>(execute: string, args?: object): Promise<T>
  /** Runs a command in the guest and gives its stdout. */
  ssh(key: string, command: string): Promise<string>
  /** Milliseconds since the process started. */
  elapsed(): number
  /** Resolves when the guest has switched itself off. */
  off(timeoutMs?: number): Promise<void>
  stop(): Promise<void>
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  server.close()
  await once(server, 'close')
  return typeof address === 'object' && address !== null ? address.port : 0
}

/** Connects to qemu's monitor, which is there a moment after the process. */
async function qmpConnect(path: string, alive: () => boolean): Promise<Socket> {
  for (;;) {
    const socket = connect(path)
    try {
      await once(socket, 'connect')
      return socket
    } catch (error) {
      if (!alive()) throw new Error('qemu ended before its monitor could be reached', { cause: error })
      await new Promise(resolve => setTimeout(resolve, 50))
    }
  }
}

function qmpSession(socket: Socket): Machine['qmp'] {
  let last = 0
  const waiting = new Map<number, (reply: { return?: unknown; error?: { desc: string } }) => void>()
  createInterface({ input: socket }).on('line', text => {
    const message = JSON.parse(text)
    waiting.get(message.id)?.(message)
    waiting.delete(message.id)
  })
  return (execute, args) =>
    new Promise((resolve, reject) => {
      const id = ++last
      waiting.set(id, reply =>
        reply.error ? reject(new Error(`${execute}: ${reply.error.desc}`)) : resolve(reply.return as never),
      )
      socket.write(`${JSON.stringify({ execute, arguments: args, id })}\n`)
    })
}

/** Gathers what the console prints, and gives ways to wait for it. */
function consoleOf(child: ChildProcess, log: { text: string }): Pick<Machine, 'line' | 'prompt'> {
  const waiters = new Set<() => void>()
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8').on('data', (text: string) => {
      log.text += text
      for (const look of waiters) look()
    })
  }
  const wait = (pattern: RegExp, candidates: () => string[], timeoutMs: number): Promise<string> =>
    new Promise((resolve, reject) => {
      const done = () => {
        clearTimeout(timer)
        waiters.delete(look)
      }
      const look = () => {
        const found = candidates().find(line => pattern.test(line))
        if (found === undefined) return
        done()
        resolve(found)
      }
      const fail = (why: string) => {
        done()
        reject(new Error(`${pattern} was not on the console: ${why}. It ended with:\n${log.text.slice(-3000)}`))
      }
      const timer = setTimeout(() => fail(`${timeoutMs} ms passed`), timeoutMs)
      child.once('close', () => fail('qemu ended'))
      waiters.add(look)
      look()
    })
  // The last of them has not ended yet.
  const lines = () => log.text.split(/\r?\n/)
  return {
    line: (pattern, timeoutMs = 120_000) => wait(pattern, () => lines().slice(0, -1), timeoutMs),
    prompt: (pattern, timeoutMs = 120_000) => wait(pattern, lines, timeoutMs),
  }
}

/** Starts qemu. The caller must `stop` it. */
export async function machineStart({ folder, args, isolated = false, metadataPort, address }: MachineOptions): Promise<Machine> {
  const began = performance.now()
  const sshPort = await freePort()
  const monitor = join(folder, 'qmp')
  const forward = `hostfwd=tcp:127.0.0.1:${sshPort}-${address ?? ''}:22`
  const service =
    metadataPort && `net=169.254.0.0/16,guestfwd=tcp:169.254.169.254:80-cmd:${process.execPath} ${RELAY} ${metadataPort}`
  const network = [
    ...['-netdev', ['user,id=net0', forward, ...(service ? [service] : [])].join(',')],
    ...['-device', 'virtio-net-pci,netdev=net0,mac=52:54:00:00:00:01,romfile='],
  ]
  const ports = [1, 2].flatMap(n => ['-device', `pcie-root-port,id=port${n},chassis=${n},slot=${n}`])
  const child = spawn(
    'qemu-system-x86_64',
    [
      ...['-nodefaults', '-display', 'none', '-serial', 'stdio', '-machine', 'q35', '-accel', 'tcg', '-cpu', 'max', '-m', '256'],
      ...['-qmp', `unix:${monitor},server=on,wait=off`, '-device', 'virtio-rng-pci', ...ports],
      ...(isolated ? [] : network),
      ...args,
    ],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  )
  const log = { text: '' }
  const console = consoleOf(child, log)
  const ended = once(child, 'close').then(() => undefined)
  const socket = await qmpConnect(monitor, () => child.exitCode === null)
  const qmp = qmpSession(socket)
  await qmp('qmp_capabilities')
  return {
    ...console,
    qmp,
    async off(timeoutMs = 60_000) {
      const late = new AbortController()
      const timer = setTimeout(() => late.abort(), timeoutMs)
      await Promise.race([ended, once(late.signal, 'abort')])
      clearTimeout(timer)
      if (child.exitCode === null) throw new Error(`the guest was not off after ${timeoutMs} ms`)
    },
    console: () => log.text,
    elapsed: () => performance.now() - began,
    async ssh(key, command) {
      const options = [
        'StrictHostKeyChecking=no',
        'UserKnownHostsFile=/dev/null',
        'LogLevel=ERROR',
        'BatchMode=yes',
        'ConnectTimeout=20',
      ]
      const flags = options.flatMap(option => ['-o', option])
      const { stdout } = await run(['ssh', '-i', key, ...flags, '-p', String(sshPort), 'guest@127.0.0.1', command], {
        timeoutMs: 60_000,
      })
      return stdout.trim()
    },
    async stop() {
      child.kill('SIGKILL')
      await ended
      socket.destroy()
    },
  }
}
