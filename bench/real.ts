import { spawn } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs'
import { dirname } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { qmpConnect } from '#host/qemu/qmp.ts'
import { benchCloud } from './cloud.ts'
import { atMost, type Bench } from './figure.ts'
import { type Caller, caller } from './fill.ts'
import { median } from './load.ts'

const ROUNDS = 5
/** Seconds that Nubo may add to what qemu takes. */
const OWN = 0.3

interface Shown {
  server: { id: string; status: string; fault?: { message: string } }
}

/** Waits for a state of a server. Throws with the server's fault if it comes to ERROR instead. */
async function waitFor({ call }: Caller, id: string, status: string): Promise<void> {
  for (;;) {
    const { server } = await call<Shown>('GET', `/compute/v2.1/servers/${id}`)
    if (server.status === status) return
    if (server.status === 'ERROR') throw new Error(`the server is in ERROR: ${server.fault?.message}`)
    await delay(20)
  }
}

/** POSTs a server and waits until it is ACTIVE: its id, and the seconds that took. */
async function boot(api: Caller, server: object): Promise<{ id: string; seconds: number }> {
  const began = performance.now()
  const { id } = (await api.call<Shown>('POST', '/compute/v2.1/servers', { server })).server
  await waitFor(api, id, 'ACTIVE')
  return { id, seconds: (performance.now() - began) / 1000 }
}

/** Deletes a server and waits until it is gone, so that the next one begins on a host at rest. */
async function gone({ call }: Caller, id: string): Promise<void> {
  await call('DELETE', `/compute/v2.1/servers/${id}`)
  for (;;) {
    const { servers } = await call<{ servers: { id: string }[] }>('GET', '/compute/v2.1/servers')
    if (!servers.some(one => one.id === id)) break
    await delay(50)
  }
  // Its networks are put in order after it.
  await delay(500)
}

interface Process {
  pid: number
  argv: string[]
  cwd: string
}

/** The qemu of a server. */
function qemuOf(id: string): Process {
  for (const entry of readdirSync('/proc').filter(name => /^\d+$/.test(name))) {
    let argv: string[]
    try {
      argv = readFileSync(`/proc/${entry}/cmdline`, 'utf8').split('\0').slice(0, -1)
    } catch {
      continue // it has ended since
    }
    if (/qemu-system-[^/]*$/.test(argv[0] ?? '') && argv.includes(id))
      return { pid: Number(entry), argv, cwd: readlinkSync(`/proc/${entry}/cwd`) }
  }
  throw new Error(`server ${id} has no qemu`)
}

/** Runs the same command by hand until its processors run: the seconds that took. The guest is not running, its files are as it left them. */
async function byHand({ argv, cwd }: Process): Promise<number> {
  const socket = argv.map(arg => /^socket,id=qmp,path=([^,]+)/.exec(arg)?.[1]).find(path => path !== undefined)!
  mkdirSync(dirname(socket), { recursive: true })
  const began = performance.now()
  const child = spawn(argv[0]!, argv.slice(1), { cwd, stdio: 'ignore' })
  const ended = new Promise(resolve => child.once('exit', resolve))
  const qmp = await qmpConnect(socket)
  await qmp.execute('cont')
  const seconds = (performance.now() - began) / 1000
  child.kill('SIGKILL')
  await ended
  qmp.close()
  rmSync(dirname(socket), { recursive: true, force: true })
  return seconds
}

export const bench: Bench = {
  about: 'a real server from POST to ACTIVE, beside the same qemu command by hand (root)',
  async run(say) {
    if (process.getuid?.() !== 0) {
      say('left out: real servers need root')
      return []
    }
    const cloud = await benchCloud()
    const api = await caller(cloud)
    try {
      const { images } = await api.call<{ images: { id: string }[] }>('GET', '/image/v2/images?name=guest')
      const { flavors } = await api.call<{ flavors: { id: string; name: string }[] }>('GET', '/compute/v2.1/flavors')
      const { networks } = await api.call<{ networks: { id: string }[] }>('GET', '/networking/v2.0/networks?name=private')
      const server = {
        name: 'bench',
        imageRef: images[0]!.id,
        flavorRef: flavors.find(f => f.name === 'm1.tiny')!.id,
        networks: [{ uuid: networks[0]!.id }],
      }
      const times: { nubo: number; hand: number }[] = []
      for (let round = -1; round < ROUNDS; round++) {
        const { id, seconds } = await boot(api, server)
        const qemu = qemuOf(id)
        process.kill(qemu.pid, 'SIGKILL')
        await waitFor(api, id, 'SHUTOFF')
        const hand = await byHand(qemu)
        await gone(api, id)
        if (round >= 0) times.push({ nubo: seconds, hand }) // the first round brings the image
      }
      const hand = median(times.map(t => t.hand))
      const note = `by hand ${hand.toFixed(3)} s, and ${OWN} s`
      return [atMost('real server, POST to ACTIVE', median(times.map(t => t.nubo)), 's', hand + OWN, note)]
    } finally {
      api.close()
      await cloud.down()
    }
  },
}
