/** See `swift-clients`. */
import assert from 'node:assert/strict'
import { execFile, spawn } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdir, mkdtemp, open, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { promisify } from 'node:util'

const MIB = 1024 * 1024
const long = process.argv.includes('--long')
const size = long ? 5 * 1024 * MIB + 1 : 40 * MIB + 1
const dir = await mkdtemp(join(tmpdir(), 'swift-clients-'))
// nothing of the caller's own clouds and proxies
const env = { PATH: process.env.PATH, HOME: dir, LANG: 'C.UTF-8' }
const run = async (program: string, ...args: string[]): Promise<string> =>
  (await promisify(execFile)(program, args, { cwd: dir, env, maxBuffer: 64 * MIB })).stdout
const has = (program: string): Promise<boolean> =>
  run(program, '--version').then(
    () => true,
    error => {
      if (error.code !== 'ENOENT') throw error
      process.stdout.write(`${program} is not installed: left out\n`)
      return false
    },
  )

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await new Promise(resolve => server.once('listening', resolve))
  const { port } = server.address() as { port: number }
  await new Promise(resolve => server.close(resolve))
  return port
}

async function make(path: string): Promise<string> {
  const sum = createHash('sha256')
  const file = await open(path, 'w')
  for (let left = size; left > 0; ) {
    const part = randomBytes(Math.min(left, 4 * MIB))
    sum.update(part)
    await file.writeFile(part)
    left -= part.length
  }
  await file.close()
  return sum.digest('hex')
}

async function sumOf(name: string): Promise<string> {
  const sum = createHash('sha256')
  await pipeline(createReadStream(join(dir, name)), sum)
  await rm(join(dir, name))
  return sum.digest('hex')
}

const port = await freePort()
const server = spawn(
  process.execPath,
  [
    join(import.meta.dirname, '../src/services/swift/alone.ts'),
    '--data',
    join(dir, 'data'),
    '--port',
    String(port),
    '--quiet',
  ].concat(['--user', 'test:tester:testing:.admin']),
  { stdio: ['ignore', 'pipe', 'inherit'] },
)
try {
  await new Promise<void>((resolve, reject) => {
    server.stdout.once('data', () => resolve())
    server.once('exit', code => reject(new Error(`the store ended with ${code}`)))
  })
  await mkdir(join(dir, 'files'))
  const want = await make(join(dir, 'file'))
  if (await has('swift')) await swiftclient(want)
  if (await has('s3cmd')) await s3cmd(want)
  if (await has('rclone')) await rclone(want)
  process.stdout.write(`${size} bytes went there and back by each\n`)
} finally {
  server.kill('SIGKILL')
  await rm(dir, { recursive: true, force: true })
}

async function swiftclient(want: string): Promise<void> {
  const swift = (...args: string[]): Promise<string> =>
    run('swift', '-A', `http://127.0.0.1:${port}/auth/v1.0`, '-U', 'test:tester', '-K', 'testing', ...args)
  for (const [name, options] of [
    ['static', ['--use-slo']],
    ['dynamic', []],
  ] as const) {
    const segments = String(long ? 1024 * MIB : 8 * MIB)
    await swift('upload', 'box', 'file', '--object-name', name, '--segment-size', segments, ...options)
    await swift('download', 'box', name, '-o', 'back')
    assert.equal(await sumOf('back'), want, `swift, ${name}`)
    assert.match(await swift('stat', 'box', name), new RegExp(`Content Length: ${size}`))
  }
  await swift('delete', '--all')
  assert.equal(await swift('list'), '')
}

async function s3cmd(want: string): Promise<void> {
  const config = join(dir, 's3cfg')
  const at = `127.0.0.1:${port}`
  await writeFile(
    config,
    `[default]\naccess_key = test:tester\nsecret_key = testing\nhost_base = ${at}\nhost_bucket = ${at}\nuse_https = False\n`,
  )
  const s3 = (...args: string[]): Promise<string> => run('s3cmd', '-c', config, '--no-progress', ...args)
  await s3('mb', 's3://box')
  await s3('put', '--multipart-chunk-size-mb', long ? '512' : '5', 'file', 's3://box/file')
  await s3('get', 's3://box/file', 'back')
  assert.equal(await sumOf('back'), want, 's3cmd')
  await s3('cp', 's3://box/file', 's3://box/copy')
  assert.match(await s3('ls', 's3://box'), new RegExp(`${size}\\s+s3://box/copy[\\s\\S]*s3://box/file`))
  await s3('rb', '--recursive', '--force', 's3://box')
  assert.equal(await s3('ls'), '')
}

async function rclone(want: string): Promise<void> {
  const remote = (kind: string, ...options: string[]): string => `:${kind},${options.join(',')}:box`
  const both: [string, string][] = [
    [
      'swift',
      remote('swift', `auth="http://127.0.0.1:${port}/auth/v1.0"`, 'user="test:tester"', 'key=testing', 'chunk_size=16Mi'),
    ],
    [
      's3',
      remote(
        's3',
        'provider=Other',
        `endpoint="http://127.0.0.1:${port}"`,
        'access_key_id="test:tester"',
        'secret_access_key=testing',
        'region=us-east-1',
      ),
    ],
  ]
  for (const [kind, box] of both) {
    await run('rclone', 'mkdir', box)
    await run('rclone', 'copyto', 'file', `${box}/folder/file`)
    await run('rclone', 'copyto', `${box}/folder/file`, 'back')
    assert.equal(await sumOf('back'), want, `rclone ${kind}`)
    await run('rclone', 'purge', box)
  }
}
