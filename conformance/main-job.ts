/**
 * The main job: everything that a user does with a new cloud, by the stock `openstack` client, with a real server on a real network; then
 * everything that an operator does; and nothing is left. Each step says how long it took.
 *
 *     conformance/main-job [--keep]        --keep leaves the folder and says where it is
 *
 * Runs on a machine of its own (lib/own-machine), so it may run beside a cloud that is in use.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import { isDeepStrictEqual, parseArgs } from 'node:util'
import { follow, RunError, type RunResult, run } from '#host/run.ts'
import { cloudAt } from './lib/cloud.ts'
import { guestGroups, links, namespaces, processesWith, tables } from './lib/leftovers.ts'
import { screenOf } from './lib/vnc.ts'

const { values } = parseArgs({ options: { keep: { type: 'boolean', default: false } } })
const cloud = cloudAt('nubo-main-job')
const { folder, data, nubo, openstack, ask, askList } = cloud
const key = join(folder, 'k')
const began = performance.now()
const seconds = (ms: number): string => (ms / 1000).toFixed(1).padStart(6)

async function step<T>(words: string, work: () => Promise<T>): Promise<T> {
  const start = performance.now()
  try {
    const result = await work()
    console.log(`${seconds(performance.now() - start)} s  ${words}`)
    return result
  } catch (error) {
    console.log(`${seconds(performance.now() - start)} s  ${words}: FAILED`)
    throw error
  }
}

function must(good: boolean, words: string): void {
  if (!good) throw new Error(words)
}

function same(actual: unknown, expected: unknown, words: string): void {
  must(isDeepStrictEqual(actual, expected), `${words}: ${JSON.stringify(actual)} and not ${JSON.stringify(expected)}`)
}

/** Asks again until the answer is good; the last answer is in the error. For what tells nobody when it happens: a guest's inside. */
async function until<T>(words: string, patience: number, look: () => Promise<T>, good: (answer: T) => boolean): Promise<T> {
  for (const end = Date.now() + patience * 1000; ; await delay(300)) {
    const answer = await look()
    if (good(answer)) return answer
    if (Date.now() > end) throw new Error(`${words}: not within ${patience} s; last: ${JSON.stringify(answer)}`)
  }
}

const SSH = [
  '-o',
  'StrictHostKeyChecking=no',
  '-o',
  'UserKnownHostsFile=/dev/null',
  '-o',
  'LogLevel=ERROR',
  '-o',
  'BatchMode=yes',
]

/** A command in the guest. Exit code 255: it could not be reached. */
const ssh = (ip: string, ...words: string[]): Promise<RunResult> =>
  run(['ssh', ...SSH, '-o', 'ConnectTimeout=5', '-i', key, `guest@${ip}`, ...words], { codes: [0, 1, 255], timeoutMs: 60_000 })

const reached = (ip: string): Promise<RunResult> =>
  until(
    'ssh to the guest',
    120,
    () => ssh(ip, 'cat', '/proc/sys/kernel/random/boot_id'),
    ({ code }) => code === 0,
  )

/** Waits until a server has a status and nothing is under way. By API: the client takes a second of processor time a look. */
async function serverIs(name: string, status: string): Promise<void> {
  await until(
    `${name} is ${status}`,
    60,
    async () => {
      const { body } = await cloud.api('GET', `/compute/v2.1/servers/detail?name=^${name}$`)
      const [server] = body.servers as Record<string, string | null>[]
      return [server?.status, server?.['OS-EXT-STS:task_state']]
    },
    now => isDeepStrictEqual(now, [status, null]),
  )
}

const quiet = async (): Promise<void> => {
  const { stdout, code } = await nubo(['audit'], [0, 1])
  same([stdout, code], ['', 0], 'nubo audit')
}

async function first(): Promise<{ server: Record<string, string>; ip: string }> {
  await step('nubo up --detach', () => nubo(['up', '--detach']))
  await step('there are an image, the networks, flavors', async () => {
    const [images, networks, flavors] = [
      await askList('image', 'list'),
      await askList('network', 'list'),
      await askList('flavor', 'list'),
    ]
    same(
      images.map(image => [image.Name, image.Status]),
      [['guest', 'active']],
      'images',
    )
    same(networks.map(network => network.Name).sort(), ['private', 'public'], 'networks')
    must(
      flavors.some(flavor => flavor.Name === 'm1.tiny'),
      'no flavor m1.tiny',
    )
  })
  await run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', key])
  writeFileSync(join(folder, 'hello.sh'), '#!/bin/sh\necho "hello from $(hostname)" > /tmp/hello\n')
  await step('keypair create', () => openstack(['keypair', 'create', '--public-key', `${key}.pub`, 'k']))
  const server = await step('server create --user-data --wait', () =>
    ask(
      ...['server', 'create', '--image', 'guest', '--flavor', 'm1.tiny', '--network', 'private', '--key-name', 'k'],
      ...['--user-data', join(folder, 'hello.sh'), '--wait', 'web'],
    ),
  )
  same([server.status, server.fault], ['ACTIVE', undefined], 'the new server')
  const ip = await step('floating ip create, server add floating ip', async () => {
    const made = await ask('floating', 'ip', 'create', 'public')
    const address = made.floating_ip_address ?? made.name!
    await openstack(['server', 'add', 'floating', 'ip', 'web', address])
    return address
  })
  await step(`ssh guest@${ip}: key, host name, user data`, async () => {
    await reached(ip)
    const hello = await until(
      'the user data',
      30,
      () => ssh(ip, 'cat', '/tmp/hello'),
      ({ code }) => code === 0,
    )
    same(hello.stdout.trim(), 'hello from web', 'what the user data wrote')
    same((await ssh(ip, 'hostname')).stdout.trim(), 'web', 'host name')
  })
  return { server, ip }
}

async function consoles(): Promise<void> {
  await step('console log show', async () => {
    const { stdout } = await openstack(['console', 'log', 'show', 'web'])
    must(/login:/.test(stdout), `no login prompt on the console:\n${stdout}`)
  })
  await step('console url show --novnc: page, picture, a token is good for once', async () => {
    const { url } = await ask('console', 'url', 'show', '--novnc', 'web')
    const page = await fetch(url!)
    must(page.ok && /noVNC|RFB/.test(await page.text()), `no page at ${url}: ${page.status}`)
    const screen = await screenOf(url!)
    // Black, and some hundreds of pixels of grey letters.
    const lit = [...screen.colours].filter(([colour]) => colour !== 0).reduce((sum, [, pixels]) => sum + pixels, 0)
    must(lit > 200, `nothing is on the screen of ${screen.width} x ${screen.height}: ${lit} lit pixels`)
    const again = await screenOf(url!).then(
      () => 'a picture',
      (error: Error) => error.message,
    )
    must(/403/.test(again), `the used token gives ${again}`)
  })
}

async function verbs(ip: string): Promise<void> {
  let boot = (await reached(ip)).stdout
  for (const kind of ['--soft', '--hard']) {
    await step(`server reboot ${kind} --wait, and ssh again`, async () => {
      await openstack(['server', 'reboot', kind, '--wait', 'web'])
      const { stdout } = await until(
        'the guest boots anew',
        120,
        () => ssh(ip, 'cat', '/proc/sys/kernel/random/boot_id'),
        one => one.code === 0 && one.stdout !== boot,
      )
      boot = stdout
    })
  }
  await step('server pause, unpause', async () => {
    await openstack(['server', 'pause', 'web'])
    await serverIs('web', 'PAUSED')
    const { code } = await run(['ping', '-n', '-c', '2', '-w', '2', ip], { codes: [0, 1] })
    same(code, 1, 'exit code of ping to a paused guest')
    await openstack(['server', 'unpause', 'web'])
    await serverIs('web', 'ACTIVE')
  })
  await step('server suspend, resume: the same boot goes on', async () => {
    await openstack(['server', 'suspend', 'web'])
    await serverIs('web', 'SUSPENDED')
    same(processesWith('qemu-system-x86_64').length, 0, 'qemu processes of a suspended guest')
    await openstack(['server', 'resume', 'web'])
    await serverIs('web', 'ACTIVE')
    same((await reached(ip)).stdout, boot, 'boot id after resume')
  })
  await step('server stop, start', async () => {
    await openstack(['server', 'stop', 'web'])
    await serverIs('web', 'SHUTOFF')
    await openstack(['server', 'start', 'web'])
    await serverIs('web', 'ACTIVE')
    must((await reached(ip)).stdout !== boot, 'the guest did not boot anew')
  })
  await step('server lock, unlock, set --name', async () => {
    await openstack(['server', 'lock', 'web'])
    same(String((await ask('server', 'show', 'web', '-c', 'locked', '--os-compute-api-version', '2.9')).locked), 'true', 'locked')
    await openstack(['server', 'unlock', 'web'])
    await openstack(['server', 'set', '--name', 'web2', 'web'])
    await serverIs('web2', 'ACTIVE')
  })
}

/** A ssh session that echoes lines. */
async function session(ip: string): Promise<{ says(word: string): Promise<void>; end(): void }> {
  const child = spawn('ssh', [...SSH, '-i', key, `guest@${ip}`, 'cat'], { stdio: ['pipe', 'pipe', 'inherit'] })
  const lines = createInterface({ input: child.stdout })
  return {
    async says(word) {
      child.stdin.write(`${word}\n`)
      const [line] = await once(lines, 'line', { signal: AbortSignal.timeout(20_000) })
      same(line, word, 'what the session echoes')
    },
    end: () => void child.kill('SIGKILL'),
  }
}

async function operating(ip: string): Promise<void> {
  await step('nubo status; nubo audit prints nothing', async () => {
    const { stdout } = await nubo(['status'])
    must(/All is well/.test(stdout), stdout)
    await quiet()
  })
  const shell = await session(ip)
  await shell.says('one')
  let lost = 0
  // -O tells of each packet that has no answer when the next one goes out.
  const pinged = await follow(['ping', '-n', '-O', '-i', '0.5', ip], line => {
    if (line.startsWith('no answer')) lost++
  })
  try {
    await step('nubo down; nothing of Nubo runs, the guest does', async () => {
      await nubo(['down'])
      same(processesWith('src/main.ts'), [], 'processes of Nubo')
      same(processesWith(join(data, 'postgres')), [], 'processes of PostgreSQL')
      same(processesWith('qemu-system-x86_64').length, 1, 'guests')
      await shell.says('two')
    })
    await step('nubo up --listen 172.24.4.1:5443: TLS, the guest is found, the ssh session goes on', async () => {
      await nubo(['up', '--detach', '--listen', '172.24.4.1:5443'])
      same((await ask('server', 'show', 'web2', '-c', 'status')).status, 'ACTIVE', 'status over TLS')
      const [endpoint] = await askList('endpoint', 'list', '--service', 'compute', '--interface', 'public')
      must(/^https:\/\/172\.24\.4\.1:5443\//.test(endpoint?.URL ?? ''), `the catalog says ${endpoint?.URL}`)
      await shell.says('three')
      await nubo(['down'])
    })
    const ms = await step('second nubo up --detach', async () => {
      const start = performance.now()
      await nubo(['up', '--detach'])
      return performance.now() - start
    })
    console.log(`           (${(ms / 1000).toFixed(2)} s to all APIs answering)`)
    await serverIs('web2', 'ACTIVE')
    await shell.says('four')
    await quiet()
  } finally {
    shell.end()
    await pinged.stop()
  }
  same(lost, 0, 'pings without an answer while Nubo was down and came up again')
}

async function ending(id: string): Promise<void> {
  await step('server delete --wait, and nothing of it is left', async () => {
    await openstack(['server', 'delete', '--wait', 'web2'])
    same(processesWith('qemu-system-x86_64'), [], 'guests')
    same(
      readdirSync(join(data, 'agent/nova/guests')).filter(name => !name.startsWith('.')),
      [],
      "guests' folders",
    )
    same(
      guestGroups().filter(path => path.includes(id)),
      [],
      'control groups',
    )
    const { body } = await cloud.api('GET', `/placement/allocations/${id}`)
    same(body.allocations, {}, 'allocations')
    const ports = await cloud.api('GET', `/networking/v2.0/ports?device_id=${id}`)
    same(ports.body.ports, [], 'ports')
    const taps = (await links()).filter(name => name.startsWith('tap'))
    const legs = (await cloud.api('GET', '/networking/v2.0/ports')).body.ports as { id: string }[]
    same(
      taps.filter(tap => !legs.some(port => tap === `tap${port.id.slice(0, 11)}`)),
      [],
      'taps of no port',
    )
    await quiet()
  })
  await step('nubo destroy --yes, and nothing at all is left', async () => {
    await nubo(['destroy', '--yes'])
    same(existsSync(data), false, 'the data folder is there')
    same(await links(), [], 'links')
    same(await namespaces(), [], 'namespaces')
    same(await tables(), [], 'tables of nftables')
    same(processesWith(data), [], 'processes')
    same(
      guestGroups().filter(path => path.includes(id)),
      [],
      'control groups',
    )
  })
}

let failed = false
try {
  const { server, ip } = await first()
  await consoles()
  await verbs(ip)
  await operating(ip)
  await ending(server.id!)
  console.log(`${seconds(performance.now() - began)} s  in all`)
} catch (error) {
  failed = true
  console.log((error as Error).message)
  if (error instanceof RunError) console.log(error.stdout.slice(-4000))
  if (existsSync(join(data, 'nubo.log'))) console.log(`the end of its log:\n${cloud.log(40)}`)
} finally {
  // What still runs ends with this machine.
  if (existsSync(data)) await nubo(['down']).catch((error: Error) => console.log(error.message))
  if (values.keep) console.log(`kept: ${folder}`)
  else cloud.remove()
}
process.exit(failed ? 1 : 0)
