/** A GET whose server fails in the middle goes on from another replica at the byte where it stopped: the client does not notice. */
import type { Call, Place } from '../http/client.ts'
import { discard, type Headers, type Res, type Stream } from '../http/message.ts'
import type { Cluster } from './cluster.ts'
import type { ObjectAt } from './object.ts'

/** The same response with a body that survives its server. Multipart answers are left as they are. */
export function resume(cluster: Cluster, at: ObjectAt, call: Call, found: { res: Res; rest: Iterator<Place> }): Res {
  const { res } = found
  if (!res.body || Buffer.isBuffer(res.body) || (res.status !== 200 && res.status !== 206)) return res
  if (res.headers['content-type']?.startsWith('multipart/byteranges') && res.headers['content-range'] === undefined) return res
  const length = Number(res.headers['content-length'])
  const first = Number(/^bytes (\d+)-/.exec(res.headers['content-range'] ?? '')?.[1] ?? 0)
  let current: Stream = res.body
  const read = async function* (): AsyncGenerator<Buffer> {
    let sent = 0
    for (;;) {
      try {
        for await (const chunk of current) {
          sent += chunk.length
          yield chunk
        }
        if (sent >= length) return
        throw new Error(`only ${sent} of ${length} bytes came`)
      } catch (error) {
        cluster.log.warn({ err: error, object: call.path, sent }, 'a replica failed while it was read')
        const next = await another(cluster, at, call, found.rest, res.headers, first + sent, first + length)
        if (!next) throw error
        current = next
      }
    }
  }
  return { ...res, body: Object.assign(read(), { discard: () => current.discard?.() }) }
}

async function another(
  cluster: Cluster,
  at: ObjectAt,
  call: Call,
  rest: Iterator<Place>,
  was: Headers,
  from: number,
  to: number,
): Promise<Stream | null> {
  const headers: Headers = { ...call.headers, range: `bytes=${from}-${to - 1}` }
  for (const name in headers) if (name.startsWith('if-')) delete headers[name]
  for (let next = rest.next(); !next.done; next = rest.next()) {
    const res = await cluster.dial(next.value, 'object', at.partition, { ...call, headers })
    if (res.status === 206 && res.headers['x-backend-data-timestamp'] === was['x-backend-data-timestamp'] && res.body) {
      return Buffer.isBuffer(res.body) ? single(res.body) : res.body
    }
    discard(res)
  }
  return null
}

async function* single(bytes: Buffer): AsyncGenerator<Buffer> {
  yield bytes
}
