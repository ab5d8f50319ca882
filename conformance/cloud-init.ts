/**
 * What a cloud image's own cloud-init finds: a server with a config drive boots; cloud-init's reader is run on the metadata service, reached
 * through the guest, and on what is on the drive. Both must say the same, and what was asked for.
 *
 *     conformance/cloud-init          (calls this with the folder of cloud-init's Python packages)
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { dirname, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { isDeepStrictEqual } from 'node:util'
import { run } from '#host/run.ts'
import { cloudAt } from './lib/cloud.ts'

const READER = fileURLToPath(new URL('./lib/cloud-init.py', import.meta.url))
const packages = process.argv[2]!
const cloud = cloudAt('nubo-cloud-init')
const { api, folder, data } = cloud
const key = join(folder, 'k')

/** Waits for what tells nobody when it happens. */
async function until(words: string, seconds: number, look: () => Promise<boolean>): Promise<void> {
  for (const end = Date.now() + seconds * 1000; !(await look()); await delay(300)) {
    if (Date.now() > end) throw new Error(`${words}: not within ${seconds} s`)
  }
}

interface Found {
  metadata: Record<string, unknown>
  userdata: string
  vendordata: unknown
  networkdata: { links: unknown[]; networks: unknown[]; services: unknown[] }
  network: { version: number; config: Record<string, unknown>[] }
}

const reader = async (kind: 'service' | 'drive', place: string, mac: string): Promise<Found> =>
  JSON.parse(
    (await run(['/usr/bin/python3', READER, kind, place, mac], { env: { PYTHONPATH: packages }, timeoutMs: 120_000 })).stdout,
  ) as Found

/** The files of an ISO 9660 image. */
async function unpack(image: string, to: string): Promise<void> {
  const { stdout } = await run(['isoinfo', '-R', '-f', '-i', image])
  for (const path of stdout.split('\n').filter(line => /\.json$|user_data$|content\/\d+$/.test(line))) {
    mkdirSync(join(to, dirname(path)), { recursive: true })
    writeFileSync(join(to, path), (await run(['isoinfo', '-R', '-x', path, '-i', image])).stdout)
  }
}

const problems: string[] = []
function same(actual: unknown, expected: unknown, words: string): void {
  if (isDeepStrictEqual(actual, expected)) return
  problems.push(`${words}: ${JSON.stringify(actual)} and not ${JSON.stringify(expected)}`)
}

async function server(): Promise<{ id: string; ip: string; mac: string; fixed: string }> {
  await cloud.nubo(['up', '--detach'])
  await run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', key])
  const get = async (path: string, member: string): Promise<{ id: string }[]> =>
    (await api('GET', path)).body[member] as { id: string }[]
  const [image] = await get('/image/v2/images?name=guest', 'images')
  const [network] = await get('/networking/v2.0/networks?name=private', 'networks')
  const [outside] = await get('/networking/v2.0/networks?name=public', 'networks')
  // A key belongs to a user, and is made by the client of whom it is.
  await api('POST', '/compute/v2.1/os-keypairs', {
    keypair: { name: 'k', type: 'ssh', public_key: readFileSync(`${key}.pub`, 'utf8') },
  })
  const { body } = await api('POST', '/compute/v2.1/servers', {
    server: {
      name: 'Web_1',
      imageRef: image!.id,
      flavorRef: '1',
      networks: [{ uuid: network!.id }],
      key_name: 'k',
      user_data: Buffer.from('#cloud-config\nhostname: ignored\n').toString('base64'),
      metadata: { role: 'front' },
      config_drive: true,
    },
  })
  const { id } = body.server as { id: string }
  await until('ACTIVE', 120, async () => {
    const { status, fault } = (await api('GET', `/compute/v2.1/servers/${id}`)).body.server as { status: string; fault?: object }
    if (status === 'ERROR') throw new Error(JSON.stringify(fault))
    return status === 'ACTIVE'
  })
  const [port] = (await api('GET', `/networking/v2.0/ports?device_id=${id}`)).body.ports as {
    id: string
    mac_address: string
    fixed_ips: { ip_address: string }[]
  }[]
  const made = await api('POST', '/networking/v2.0/floatingips', {
    floatingip: { floating_network_id: outside!.id, port_id: port!.id },
  })
  const ip = (made.body.floatingip as { floating_ip_address: string }).floating_ip_address
  return { id, ip, mac: port!.mac_address, fixed: port!.fixed_ips[0]!.ip_address }
}

const reaches = (port: number): Promise<boolean> =>
  new Promise(resolve => {
    const socket = connect(port, '127.0.0.1')
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false))
    socket.once('connect', () => socket.destroy())
  })

/** Reads both, and compares. */
async function compare({ id, ip, mac, fixed }: Awaited<ReturnType<typeof server>>): Promise<void> {
  const guest = join(data, 'agent/nova/guests', id)
  const image = readdirSync(guest).find(name => name.startsWith('config-'))!
  await unpack(join(guest, image), join(folder, 'drive'))
  const drive = await reader('drive', join(folder, 'drive'), mac)

  const ssh = ['-o', 'StrictHostKeyChecking=no', '-o', 'UserKnownHostsFile=/dev/null', '-o', 'LogLevel=ERROR', '-i', key]
  await until('ssh', 120, async () => {
    const { code } = await run(['ssh', ...ssh, '-o', 'ConnectTimeout=5', `guest@${ip}`, 'true'], { codes: [0, 1, 255] })
    return code === 0
  })
  const tunnel = spawn('ssh', [...ssh, '-N', '-L', '8775:169.254.169.254:80', `guest@${ip}`], { stdio: 'inherit' })
  try {
    await until('the way to the metadata service', 30, () => reaches(8775))
    const service = await reader('service', 'http://127.0.0.1:8775', mac)
    const seen = { fixed, id, publicKey: readFileSync(`${key}.pub`, 'utf8').trim() }
    for (const [name, found] of [
      ['drive', drive],
      ['service', service],
    ] as const)
      check(name, found, seen)
    for (const name of ['metadata', 'networkdata', 'network', 'userdata', 'vendordata'] as const) {
      // Made anew at each reading.
      const { random_seed: _, admin_pass: __, ...a } = drive[name] as Record<string, unknown>
      const { random_seed: ___, admin_pass: ____, ...b } = service[name] as Record<string, unknown>
      same(b, a, `${name} of the service and of the drive`)
    }
    const ec2 = await fetch('http://127.0.0.1:8775/latest/meta-data/local-ipv4')
    same(await ec2.text(), fixed, 'EC2 local-ipv4')
  } finally {
    tunnel.kill('SIGKILL')
    if (tunnel.exitCode === null && tunnel.signalCode === null) await once(tunnel, 'exit')
  }
}

function check(name: string, found: Found, seen: { fixed: string; id: string; publicKey: string }): void {
  const { metadata } = found
  same(metadata['instance-id'], seen.id, `${name}: instance-id`)
  same(metadata['local-hostname'], 'web-1', `${name}: local-hostname`)
  same(metadata.availability_zone ?? metadata['availability-zone'], 'nova', `${name}: availability zone`)
  same(
    Object.values((metadata.public_keys ?? metadata['public-keys']) as object).map(one => String(one).trim()),
    [seen.publicKey],
    `${name}: keys`,
  )
  same(metadata.meta, { role: 'front' }, `${name}: meta`)
  same(found.userdata, '#cloud-config\nhostname: ignored\n', `${name}: user data`)
  const physical = found.network.config.find(one => one.type === 'physical')
  same(physical?.name, 'eth0', `${name}: interface`)
  same(physical?.mtu, 1450, `${name}: MTU`)
  const subnets = physical?.subnets as { type: string }[]
  same(
    subnets?.map(one => one.type),
    ['dhcp4'],
    `${name}: how addresses are had`,
  )
}

try {
  await compare(await server())
} catch (error) {
  problems.push((error as Error).message)
  if (existsSync(join(data, 'nubo.log'))) console.log(`the end of its log:\n${cloud.log(20)}`)
} finally {
  if (existsSync(data)) await cloud.nubo(['destroy', '--yes']).catch((error: Error) => problems.push(error.message))
  cloud.remove()
}
for (const words of problems) console.log(`WRONG ${words}`)
console.log(
  problems.length === 0 ? 'cloud-init reads the metadata service and the config drive alike' : `${problems.length} wrong`,
)
process.exit(problems.length === 0 ? 0 : 1)
