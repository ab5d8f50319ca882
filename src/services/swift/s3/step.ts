/** The S3 API as a step of the proxy: signed requests (and those of bucket host names) become requests for containers and objects. */
import { createHash } from 'node:crypto'
import { answer, once, type Req, type Res, refuse, Stop } from '../http/message.ts'
import type { Site, Step } from '../proxy/site.ts'
import { bucketRequest, serviceRequest } from './buckets.ts'
import { type Checksum, checked, checkHeaders } from './checks.ts'
import { errorPage, S3Error } from './errors.ts'
import { multipartRequest } from './multipart.ts'
import { objectRequest } from './objects.ts'
import { signedBy, sumMismatch, summed, type Trailers, unchunked } from './signature.ts'
import type { S3 } from './types.ts'

/** Answers S3 requests, lets all others by. */
export const s3api: Step = (next, site) => async req => {
  const host = bucketOfHost(site, req)
  // some clients sign the whole path of the URL, some what is below the endpoint
  const paths = [...new Set([`${req.env.mount}${req.rawPath}`, req.rawPath])]
  const failure: Failure = { error: null }
  try {
    const signed = signedBy(req, paths, host, site.settings.s3!.checkClock)
    if (!signed) return host ? await anonymous() : next(req)
    const checksum = checkHeaders(req, signed.isFour)
    const known = await identify(site, signed.accessKey)
    if (!known) throw new S3Error('InvalidAccessKeyId', { AWSAccessKeyId: signed.accessKey })
    signed.verify(known.secret)
    takeBody(req, signed, known.secret, checksum, failure)
    const [, bucket, ...key] = (host ? `/${host}${req.path}` : req.path).split('/')
    req.env.s3 = { bucket: bucket || null, key: key.join('/') || null, accessKey: signed.accessKey }
    req.env.who = known.who
    const s3: S3 = { next, site, req, account: known.account, bucket: bucket || null, key: key.join('/') || null }
    const res = await route(s3)
    if (failure.error) throw failure.error
    return { ...res, headers: { ...res.headers, 'x-amz-id-2': req.env.transId, 'x-amz-request-id': req.env.transId } }
  } catch (error) {
    const failed = failure.error ?? (error instanceof S3Error ? error : fromSwift(error))
    return errorPage(failed, req.env.transId, { 'x-amz-id-2': req.env.transId, 'x-amz-request-id': req.env.transId })
  }
}

async function anonymous(): Promise<Res> {
  throw new S3Error('AccessDenied')
}

function fromSwift(error: unknown): S3Error {
  const res = answer(error)
  return new S3Error(
    res.status === 499
      ? 'IncompleteBody'
      : res.status === 413
        ? 'EntityTooLarge'
        : res.status < 500
          ? 'InvalidRequest'
          : 'InternalError',
  )
}

function bucketOfHost(site: Site, req: Req): string | null {
  const { domain } = site.settings.s3!
  const host = (req.headers.host ?? '').replace(/:\d+$/, '').toLowerCase()
  return domain && host.endsWith(`.${domain}`) ? host.slice(0, -domain.length - 1) : null
}

async function identify(
  site: Site,
  accessKey: string,
): Promise<{ secret: string; account: string; who: Req['env']['who'] } | null> {
  const { tempauth, keystone, prefixes } = site.settings
  const user = tempauth?.users.find(known => `${known.account}:${known.user}` === accessKey)
  if (user) return { secret: user.key, account: `${prefixes[0]}${user.account}`, who: null }
  const found = keystone?.ec2 ? await keystone.ec2(accessKey) : null
  return found && { secret: found.secret, account: `${prefixes[0]}${found.who.projectId}`, who: found.who }
}

/** What was wrong with the body: the store only hears that it ended early, and keeps nothing of it. */
interface Failure {
  error: S3Error | null
}

async function* guarded(body: AsyncIterable<Buffer>, failure: Failure): AsyncGenerator<Buffer> {
  try {
    yield* body
  } catch (error) {
    if (!(error instanceof S3Error)) throw error
    failure.error = error
    throw new Stop(refuse(499))
  }
}

function takeBody(
  req: Req,
  signed: NonNullable<ReturnType<typeof signedBy>>,
  secret: string,
  checksum: Checksum | null,
  failure: Failure,
): void {
  const sum = req.headers['x-amz-content-sha256'] ?? ''
  const trailers: Trailers = { expected: checksum?.value === null ? `x-amz-checksum-${checksum.algorithm}` : null, got: {} }
  // what comes with a GET is not read, and need not be what was said
  if (req.method !== 'PUT' && req.method !== 'POST') return
  if (!req.body && !/^[0-9a-f]{64}$/i.test(sum) && !checksum) return
  let body: AsyncIterable<Buffer> = req.body ?? once(Buffer.alloc(0))
  if (sum.startsWith('STREAMING-')) {
    const isSigned = sum.startsWith('STREAMING-AWS4-HMAC-SHA256')
    body = unchunked(body, isSigned && signed.chunks ? signed.chunks(secret) : null, trailers)
    const length = req.headers['x-amz-decoded-content-length']
    req.length = Number(length)
    req.headers['content-length'] = length
    delete req.headers['transfer-encoding']
    const encodings = (req.headers['content-encoding'] ?? '')
      .split(',')
      .map(one => one.trim())
      .filter(one => one && one !== 'aws-chunked')
    if (encodings.length) req.headers['content-encoding'] = encodings.join(',')
    else delete req.headers['content-encoding']
  } else if (/^[0-9a-f]{64}$/i.test(sum)) {
    if (!req.body) {
      const empty = createHash('sha256').digest('hex')
      if (sum.toLowerCase() !== empty) throw sumMismatch(sum, empty)
    }
    body = summed(body, sum)
  }
  if (checksum) body = checked(body, checksum, trailers.got)
  if (req.body || checksum) req.body = guarded(body, failure)
}

function route(s3: S3): Promise<Res> {
  const { query } = s3.req
  if (s3.bucket === null) return serviceRequest(s3)
  if (query.has('uploads') || query.has('uploadId')) return multipartRequest(s3)
  if (s3.key === null) return bucketRequest(s3)
  return objectRequest(s3)
}
