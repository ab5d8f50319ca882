/** The S3 API as a step of the proxy: signed requests (and those of bucket host names) become requests for containers and objects. */
import { createHash } from 'node:crypto'
import { answer, type Req, type Res } from '../http/message.ts'
import type { Site, Step } from '../proxy/site.ts'
import { bucketRequest, serviceRequest } from './buckets.ts'
import { errorPage, S3Error } from './errors.ts'
import { multipartRequest } from './multipart.ts'
import { objectRequest } from './objects.ts'
import { signedBy, sumMismatch, summed, unchunked } from './signature.ts'
import type { S3 } from './types.ts'

/** Answers S3 requests, lets all others by. */
export const s3api: Step = (next, site) => async req => {
  const host = bucketOfHost(site, req)
  // some clients sign the whole path of the URL, some what is below the endpoint
  const paths = [...new Set([`${req.env.mount}${req.rawPath}`, req.rawPath])]
  try {
    const signed = signedBy(req, paths, host, site.settings.s3!.checkClock)
    if (!signed) return host ? await anonymous() : next(req)
    const known = await identify(site, signed.accessKey)
    if (!known) throw new S3Error('InvalidAccessKeyId', { AWSAccessKeyId: signed.accessKey })
    signed.verify(known.secret)
    takeBody(req, signed, known.secret)
    const [, bucket, ...key] = (host ? `/${host}${req.path}` : req.path).split('/')
    req.env.s3 = { bucket: bucket || null, key: key.join('/') || null, accessKey: signed.accessKey }
    req.env.who = known.who
    const s3: S3 = { next, site, req, account: known.account, bucket: bucket || null, key: key.join('/') || null }
    const res = await route(s3)
    return { ...res, headers: { ...res.headers, 'x-amz-id-2': req.env.transId, 'x-amz-request-id': req.env.transId } }
  } catch (error) {
    const failed = error instanceof S3Error ? error : fromSwift(error)
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

function takeBody(req: Req, signed: NonNullable<ReturnType<typeof signedBy>>, secret: string): void {
  if (!req.body) {
    const empty = createHash('sha256').digest('hex')
    if (signed.bodySum && signed.bodySum !== empty) throw sumMismatch(signed.bodySum, empty)
    return
  }
  const streaming = req.headers['x-amz-content-sha256']?.startsWith('STREAMING-')
  if (streaming) {
    const isSigned = req.headers['x-amz-content-sha256'].startsWith('STREAMING-AWS4-HMAC-SHA256')
    req.body = unchunked(req.body, isSigned && signed.chunks ? signed.chunks(secret) : null)
    const length = req.headers['x-amz-decoded-content-length']
    req.length = length === undefined ? null : Number(length)
    if (length === undefined) req.headers['transfer-encoding'] = 'chunked'
    else req.headers['content-length'] = length
    const encodings = (req.headers['content-encoding'] ?? '')
      .split(',')
      .map(one => one.trim())
      .filter(one => one && one !== 'aws-chunked')
    if (encodings.length) req.headers['content-encoding'] = encodings.join(',')
    else delete req.headers['content-encoding']
  } else if (signed.bodySum) req.body = summed(req.body, signed.bodySum)
}

function route(s3: S3): Promise<Res> {
  const { query } = s3.req
  if (s3.bucket === null) return serviceRequest(s3)
  if (query.has('uploads') || query.has('uploadId')) return multipartRequest(s3)
  if (s3.key === null) return bucketRequest(s3)
  return objectRequest(s3)
}
