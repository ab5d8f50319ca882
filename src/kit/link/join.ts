/**
 * How a machine becomes a host: `POST /agent/join` with a one-use token gives its secret, the controllers' addresses and the cloud's CA. The
 * token an operator carries over ends in the CA's fingerprint, so that the new host knows the right cloud before it says anything secret.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { request as plainRequest } from 'node:http'
import { request as tlsRequest } from 'node:https'
import type { Db } from '../db/index.ts'
import { badRequest, Fault, faultOf, internal, methodNotAllowed, notFound, reason } from '../fault.ts'
import { parseBody, readBody } from '../http/body.ts'
import { certFingerprint } from '../tls.ts'
import { hostJoin, joinTokenCreate } from './registry.ts'
import type { LinkLog } from './verb.ts'

/** What a machine that joined keeps, in a file that only root reads. */
export interface Joined {
  host: string
  secret: string
  /** Addresses of controllers, for `wayOf`. */
  controllers: string[]
  /** The cloud's own CA in PEM, where it has one. */
  ca?: string
}

const BODY_LIMIT = 4096
const ANSWER_LIMIT = 64 * 1024
const ANSWER_MS = 20_000

/** A token for an operator to carry to a new host: `joinTokenCreate`'s with the CA's fingerprint, if the cloud has its own CA. */
export async function joinTokenFor(
  db: Db,
  options: { seconds: number; host?: string; uses?: number; ca?: string },
): Promise<string> {
  const token = await db.tx(tx => joinTokenCreate(tx, options))
  return options.ca === undefined ? token : `${token}.${certFingerprint(options.ca)}`
}

export interface JoinOptions {
  db: Db
  log: LinkLog
  ca?: string
  /** Where agents of other machines reach the controllers. */
  addresses(): readonly string[]
}

/** Answers requests under `/agent` that are no upgrade: `GET /agent/ca` and `POST /agent/join`. An entry for the server's `extra`. */
export function joinHandler({ db, log, ca, addresses }: JoinOptions): (req: IncomingMessage, res: ServerResponse) => void {
  const join = async (req: IncomingMessage): Promise<Joined> => {
    const body = parseBody(await readBody(req, BODY_LIMIT), req.headers['content-type'])
    const { token, host } = (body ?? {}) as Record<string, unknown>
    if (typeof token !== 'string' || typeof host !== 'string') throw badRequest('The body must be {"token": …, "host": …}.')
    const secret = await db.tx(tx => hostJoin(tx, token, host))
    log.info({ host, from: req.socket.remoteAddress }, 'a host joined')
    return { host, secret, controllers: [...addresses()], ca }
  }
  const answer = async (req: IncomingMessage): Promise<{ type: string; body: string }> => {
    const path = req.url!.split('?', 1)[0]
    if (path === '/agent/ca' && ca !== undefined) return { type: 'application/x-pem-file', body: ca }
    if (path !== '/agent/join') throw notFound('The agent link has no such path.')
    if (req.method !== 'POST') throw methodNotAllowed('Join by POST.', { headers: { Allow: 'POST' } })
    return { type: 'application/json', body: JSON.stringify(await join(req)) }
  }
  return (req, res) => {
    answer(req).then(
      ({ type, body }) => send(res, 200, { 'Content-Type': type }, body),
      (error: unknown) => {
        if (!(error instanceof Fault)) log.error({ error: reason(error) }, 'joining failed')
        const fault = error instanceof Fault ? error : internal('The server could not do it; its log says why.')
        const body = JSON.stringify({ error: { code: fault.status, title: fault.kind, message: fault.message } })
        send(res, fault.status, { 'Content-Type': 'application/json', ...fault.details.headers }, body)
      },
    )
  }
}

function send(res: ServerResponse, status: number, headers: Record<string, string>, body: string): void {
  res.writeHead(status, { ...headers, 'Content-Length': Buffer.byteLength(body) }).end(body)
}

/**
 * Makes this machine a host of the cloud at `url` (its API's base). With a fingerprint in the token the cloud's CA is fetched and compared
 * before the token is sent; without one the system's CAs must vouch. Rejects with the cloud's own fault, or Error when it cannot be reached
 * or is not the cloud that made the token.
 */
export async function joinCloud(url: string, token: string, host: string): Promise<Joined> {
  const [id, secret, fingerprint] = token.split('.')
  const base = new URL(url)
  const ca = fingerprint === undefined ? undefined : await fetchCa(base, fingerprint)
  const { status, body } = await ask(new URL('/agent/join', base), {
    ca,
    body: JSON.stringify({ token: `${id}.${secret}`, host }),
  })
  const said = JSON.parse(body) as Joined & { error?: { title: string; message: string } }
  if (status !== 200) throw faultOf(said.error?.title ?? 'internal', said.error?.message ?? `the cloud answered ${status}`)
  return { host: said.host, secret: said.secret, controllers: said.controllers, ca }
}

async function fetchCa(base: URL, fingerprint: string): Promise<string> {
  const { status, body } = await ask(new URL('/agent/ca', base), { untrusted: true })
  if (status !== 200)
    throw new Error(`${base.host} has no certificate authority of its own, but the token is of a cloud that has`)
  if (certFingerprint(body) !== fingerprint)
    throw new Error(`${base.host} is not the cloud that made the token: its CA is another one`)
  return body
}

interface Ask {
  ca?: string
  /** Nothing secret is sent and the answer is checked by other means. */
  untrusted?: boolean
  body?: string
}

function ask(url: URL, { ca, untrusted, body }: Ask): Promise<{ status: number; body: string }> {
  const options = {
    method: body === undefined ? 'GET' : 'POST',
    headers: body === undefined ? {} : { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body) },
    agent: false as const,
    timeout: ANSWER_MS,
    signal: AbortSignal.timeout(ANSWER_MS),
  }
  const tls = { ca, rejectUnauthorized: !untrusted }
  return new Promise((resolve, reject) => {
    const request = url.protocol === 'https:' ? tlsRequest(url, { ...options, ...tls }) : plainRequest(url, options)
    request.once('error', reject)
    request.once('response', response => {
      const parts: Buffer[] = []
      let size = 0
      response.on('data', (part: Buffer) => {
        size += part.length
        parts.push(part)
        if (size > ANSWER_LIMIT) response.destroy(new Error(`${url.host} answers too much`))
      })
      response.once('error', reject)
      response.once('end', () => resolve({ status: response.statusCode!, body: Buffer.concat(parts).toString() }))
    })
    request.end(body)
  })
}
