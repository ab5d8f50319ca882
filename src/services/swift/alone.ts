/**
 * `node src/services/swift/alone.ts --data DIR --port 8080 --user test:tester:testing:.admin`: the object store alone, with users of its
 * own (account:user:key[:group…]). Without `--user` nobody can log in, and only what is public can be read.
 */
import { parseArgs } from 'node:util'
import { openLog } from '#kit/log.ts'
import type { TempUser } from './proxy/site.ts'
import { startAlone } from './standalone.ts'

const { values } = parseArgs({
  options: {
    data: { type: 'string' },
    ip: { type: 'string', default: '127.0.0.1' },
    port: { type: 'string', default: '8080' },
    user: { type: 'string', multiple: true, default: [] },
    devices: { type: 'string', default: 'd1' },
    replicas: { type: 'string', default: '1' },
    quiet: { type: 'boolean', default: false },
  },
})
if (!values.data) throw new Error('--data DIR is needed: the folder for devices and secrets')

const users = values.user.map((given): TempUser => {
  const [account, user, key, ...groups] = given.split(':')
  if (!account || !user || !key) throw new Error('--user must be account:user:key[:group…]')
  return { account, user, key, groups }
})
const log = openLog({ level: values.quiet ? 'warn' : 'info' })
const store = await startAlone({
  dataDir: values.data,
  log,
  devices: values.devices.split(','),
  replicas: Number(values.replicas),
  settings: {
    tempauth: { users, tokenLife: 86400 },
    s3: { region: 'us-east-1', domain: null, minPartSize: 5 * 1024 * 1024, maxParts: 10000, checkClock: 900 },
  },
  intervals: { quick: 30, audit: 3600 },
  listen: { ip: values.ip, port: Number(values.port) },
})
log.warn({ port: store.port }, 'object store ready')
process.stdout.write('ready\n')
const stop = (): void => {
  void store.close().then(() => process.exit(0))
}
process.once('SIGTERM', stop)
process.once('SIGINT', stop)
