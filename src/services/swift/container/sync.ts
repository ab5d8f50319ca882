/** Copies containers to others elsewhere (`X-Container-Sync-To`), object by object, as rows come. */
import { createHash, randomUUID } from 'node:crypto'
import { request as http } from 'node:http'
import { request as https } from 'node:https'
import { type Daemon, databasesHere, type Pass, type Premises } from '../daemons.ts'
import { discard, type Headers, ok, once, quote, type Stream, text } from '../http/message.ts'
import { request } from '../internal.ts'
import { syncSignature, syncTarget } from '../proxy/features/containersync.ts'
import { partitionFor, primaries } from '../ring/ring.ts'
import type { ContainerInfo, ObjectRow } from './broker.ts'

/** Containers of this host that have somewhere to go. */
export const containerSyncDaemon = (every: number): Daemon => ({
  name: 'container-sync',
  every,
  async pass(premises, pass) {
    for await (const found of databasesHere(premises, 'containers', pass)) {
      const info = await premises.databases.databases.call('container.info', found.path)
      const to = info?.metadata['x-container-sync-to']?.[0]
      const key = info?.metadata['x-container-sync-key']?.[0]
      if (!info || info.is_deleted || !to || !key) continue
      const target = to.startsWith('//') ? syncTarget(premises.site, to) : { url: to, realm: null, key: '' }
      if (!target) {
        pass.count('failures')
        continue
      }
      pass.count('containers')
      await one(premises, pass, found.path, found.device, info, { ...target, userKey: text(key) })
    }
  },
})

interface Target {
  url: string
  realm: string | null
  key: string
  userKey: string
}

/**
 * Two points in the rows. What is behind the first has been sent by all; between the points each replica has sent its own share, and in
 * this pass sends the shares of the others, in case they could not; beyond the second it sends its share.
 */
async function one(
  premises: Premises,
  pass: Pass,
  path: string,
  device: string,
  info: ContainerInfo,
  target: Target,
): Promise<void> {
  const { cluster, databases } = premises
  const places = primaries(
    cluster.containerRing,
    partitionFor(cluster.containerRing, cluster.secrets, info.account, info.container),
  )
  const me = places.findIndex(place => place.device === device && `${place.ip}:${place.port}` === premises.address)
  if (me < 0) return
  const mine = (row: ObjectRow): boolean =>
    Number.parseInt(createHash('md5').update(row.name).digest('hex').slice(0, 8), 16) % places.length === me
  let { sync_point1: first, sync_point2: second } = info
  while (first < second) {
    const [row] = await databases.databases.call('container.since', path, { row: first, count: 1 })
    if (!row || row.rowid! > second) break
    if (!mine(row) && !(await send(premises, pass, info, row, target))) return
    first = row.rowid!
    await databases.databases.call('container.syncPoints', path, { point1: first, point2: second })
  }
  let failed = false
  for (;;) {
    const rows = await databases.databases.call('container.since', path, { row: second, count: 100 })
    if (rows.length === 0) break
    for (const row of rows) {
      if (mine(row) && !(await send(premises, pass, info, row, target))) failed = true
      second = row.rowid!
    }
    await databases.databases.call('container.syncPoints', path, {
      point1: failed ? first : places.length === 1 ? second : first,
      point2: failed ? first : second,
    })
    if (failed) return
  }
}

async function send(premises: Premises, pass: Pass, info: ContainerInfo, row: ObjectRow, target: Target): Promise<boolean> {
  await pass.pace(50)
  const url = new URL(`${target.url}/${quote(row.name)}`)
  const ask = url.protocol === 'local:' ? here(premises) : away
  const method = row.deleted ? 'DELETE' : 'PUT'
  const sign = (timestamp: string): Headers => {
    if (target.realm === null) return { 'x-timestamp': timestamp, 'x-container-sync-key': target.userKey }
    const nonce = randomUUID()
    const signature = syncSignature(method, decodeURIComponent(url.pathname), timestamp, nonce, target.key, target.userKey)
    return { 'x-timestamp': timestamp, 'x-container-sync-auth': `${target.realm} ${nonce} ${signature}` }
  }
  let status: number
  if (row.deleted) status = await ask(url, method, sign(row.created_at), null, 0)
  else {
    const source = await premises.client(
      request('GET', `/v1/${info.account}/${info.container}/${row.name}`, {
        query: new Map([
          ['multipart-manifest', 'get'],
          ['symlink', 'get'],
          ['format', 'raw'],
        ]),
        headers: { 'x-newest': 'true' },
      }),
    )
    if (source.status === 404) {
      discard(source)
      return true // deleted since; the tombstone follows
    }
    if (!ok(source.status)) {
      discard(source)
      pass.count('failures')
      return false
    }
    const headers = sign(source.headers['x-timestamp'] ?? row.created_at)
    for (const name in source.headers) {
      if (
        name.startsWith('x-object-meta-') ||
        [
          'content-type',
          'content-encoding',
          'content-disposition',
          'x-object-manifest',
          'x-delete-at',
          'x-symlink-target',
        ].includes(name)
      )
        headers[name] = source.headers[name]
    }
    if (source.headers['x-static-large-object'] !== undefined) url.searchParams.set('multipart-manifest', 'put')
    else if (/^[0-9a-f]{32}$/.test(source.headers.etag ?? '')) headers.etag = source.headers.etag
    status = await ask(url, method, headers, source.body, Number(source.headers['content-length']))
  }
  const done = ok(status) || status === 409 || (status === 404 && row.deleted === 1)
  pass.count(done ? 'rows' : 'failures')
  if (!done) premises.log.warn({ url: url.href, status }, 'container sync was refused')
  return done
}

/** A realm's cluster that is this very one: no network, the same signature. */
const here =
  (premises: Premises): typeof away =>
  async (url, method, headers, body, length) => {
    const req = request(method, decodeURIComponent(url.pathname), {
      query: new Map(url.searchParams),
      headers,
      body: Buffer.isBuffer(body) ? once(body) : body,
      length,
    })
    req.env = { ...req.env, source: null, authorizeOverride: false }
    const res = await premises.client(req)
    discard(res)
    return res.status
  }

function away(url: URL, method: string, headers: Headers, body: Buffer | Stream | null, length: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const outgoing = (url.protocol === 'https:' ? https : http)(
      url,
      { method, headers: { ...headers, 'content-length': String(length) }, timeout: 60_000 },
      incoming => {
        incoming.resume()
        incoming.on('end', () => resolve(incoming.statusCode ?? 0))
        incoming.on('error', reject)
      },
    )
    outgoing.on('timeout', () => outgoing.destroy(new Error('no answer within a minute')))
    outgoing.on('error', () => resolve(0))
    const write = async (): Promise<void> => {
      if (Buffer.isBuffer(body)) outgoing.write(body)
      else if (body)
        for await (const chunk of body) if (!outgoing.write(chunk)) await new Promise(drained => outgoing.once('drain', drained))
      outgoing.end()
    }
    write().catch(error => outgoing.destroy(error as Error))
  })
}
