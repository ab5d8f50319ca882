/** S3's errors: a code, a status, a sentence. */
import { type Headers, type Res, reply } from '../http/message.ts'
import { inner } from './xml.ts'

const ERRORS: Record<string, [number, string]> = {
  AccessDenied: [403, 'Access Denied.'],
  AuthorizationHeaderMalformed: [400, 'The authorization header is malformed.'],
  AuthorizationQueryParametersError: [400, 'The query parameters of the signature are not valid.'],
  BadDigest: [400, 'The Content-MD5 you specified did not match what we received.'],
  BucketAlreadyExists: [409, 'The requested bucket name is not available.'],
  BucketAlreadyOwnedByYou: [409, 'Your previous request to create the named bucket succeeded and you already own it.'],
  BucketNotEmpty: [409, 'The bucket you tried to delete is not empty'],
  EntityTooLarge: [400, 'Your proposed upload exceeds the maximum allowed object size.'],
  EntityTooSmall: [400, 'Your proposed upload is smaller than the minimum allowed object size.'],
  IncompleteBody: [400, 'You did not provide the number of bytes specified by the Content-Length HTTP header.'],
  InternalError: [500, 'We encountered an internal error. Please try again.'],
  InvalidAccessKeyId: [403, 'The AWS Access Key Id you provided does not exist in our records.'],
  InvalidArgument: [400, 'Invalid Argument.'],
  InvalidBucketName: [400, 'The specified bucket is not valid.'],
  InvalidDigest: [400, 'The Content-MD5 you specified was invalid.'],
  InvalidLocationConstraint: [400, 'The specified location constraint is not valid.'],
  InvalidPart: [
    400,
    "One or more of the specified parts could not be found. The part might not have been uploaded, or the specified entity tag might not have matched the part's entity tag.",
  ],
  InvalidPartOrder: [400, 'The list of parts was not in ascending order. Parts list must specified in order by part number.'],
  InvalidRange: [416, 'The requested range cannot be satisfied.'],
  InvalidRequest: [400, 'Invalid Request.'],
  InvalidStorageClass: [400, 'The storage class you specified is not valid.'],
  InvalidURI: [400, "Couldn't parse the specified URI."],
  KeyTooLongError: [400, 'Your key is too long.'],
  MalformedTrailerError: [
    400,
    'The request contained trailing data that was not well-formed or did not conform to our published schema.',
  ],
  MalformedXML: [400, 'The XML you provided was not well-formed or did not validate against our published schema'],
  MetadataTooLarge: [400, 'Your metadata headers exceed the maximum allowed metadata size.'],
  MethodNotAllowed: [405, 'The specified method is not allowed against this resource.'],
  MissingContentLength: [411, 'You must provide the Content-Length HTTP header.'],
  NoSuchBucket: [404, 'The specified bucket does not exist.'],
  NoSuchKey: [404, 'The specified key does not exist.'],
  NoSuchUpload: [
    404,
    'The specified multipart upload does not exist. The upload ID might be invalid, or the multipart upload might have been aborted or completed.',
  ],
  NoSuchVersion: [404, 'The specified version does not exist.'],
  NotImplemented: [501, 'The requested resource is not implemented.'],
  ObjectLockConfigurationNotFoundError: [404, 'Object Lock configuration does not exist for this bucket'],
  PreconditionFailed: [412, 'At least one of the preconditions you specified did not hold.'],
  RequestTimeTooSkewed: [403, 'The difference between the request time and the current time is too large.'],
  ServiceUnavailable: [503, 'Please reduce your request rate.'],
  SignatureDoesNotMatch: [
    403,
    'The request signature we calculated does not match the signature you provided. Check your key and signing method.',
  ],
  XAmzContentSHA256Mismatch: [400, "The provided 'x-amz-content-sha256' header does not match what was computed."],
}
export type S3Code = keyof typeof ERRORS & string

/** Thrown anywhere in S3's handlers, rendered once. */
export class S3Error extends Error {
  readonly code: S3Code
  readonly about: Record<string, string>
  constructor(code: S3Code, about: Record<string, string> = {}) {
    super(about.Message ?? ERRORS[code][1])
    this.code = code
    this.about = about
  }
}

/** The error page. */
export function errorPage(error: S3Error, requestId: string, headers: Headers = {}): Res {
  const [status] = ERRORS[error.code]
  const { Message, ...about } = error.about
  const body = `<?xml version='1.0' encoding='UTF-8'?>\n<Error>${inner({ Code: error.code, Message: Message ?? error.message, RequestId: requestId, ...about })}</Error>`
  return reply(status, { 'content-type': 'application/xml', ...headers }, Buffer.from(body))
}

/** What a Swift answer means in S3, for a bucket or a key. */
export function translated(status: number, isKey: boolean): S3Error {
  const code: Record<number, S3Code> = {
    401: 'SignatureDoesNotMatch',
    403: 'AccessDenied',
    404: isKey ? 'NoSuchKey' : 'NoSuchBucket',
    405: 'MethodNotAllowed',
    409: 'BucketNotEmpty',
    411: 'MissingContentLength',
    412: 'PreconditionFailed',
    413: 'EntityTooLarge',
    416: 'InvalidRange',
    422: 'BadDigest',
    499: 'IncompleteBody',
    501: 'NotImplemented',
    400: 'InvalidRequest',
  }
  return new S3Error(code[status] ?? (status >= 500 ? 'ServiceUnavailable' : 'InvalidRequest'))
}
