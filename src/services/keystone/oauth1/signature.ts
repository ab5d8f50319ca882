import { createHmac, timingSafeEqual } from 'node:crypto'

// Signatures of OAuth 1.0a (RFC 5849), HMAC-SHA1: over the method, the URL without its query, and all parameters in order.

/** The parameters of an `Authorization: OAuth …` header; null when it is none. */
export function oauthParameters(header: string | undefined): Record<string, string> | null {
  if (!header || !/^OAuth\s/i.test(header)) return null
  const parameters: Record<string, string> = {}
  for (const part of header.slice(6).split(',')) {
    const match = /^\s*([\w-]+)="([^"]*)"\s*$/.exec(part)
    if (match) parameters[match[1]!] = decode(match[2]!)
  }
  return parameters
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

/** Percent-encoding as RFC 3986 has it. */
export const encode = (text: string): string =>
  encodeURIComponent(text).replace(/[!'()*]/g, char => `%${char.charCodeAt(0).toString(16).toUpperCase()}`)

/** What is signed. */
export function baseString(method: string, url: URL, oauth: Record<string, string>): string {
  const pairs: [string, string][] = [...url.searchParams]
  for (const [name, value] of Object.entries(oauth)) if (name !== 'oauth_signature' && name !== 'realm') pairs.push([name, value])
  const encoded = pairs.map(([name, value]) => [encode(name), encode(value)] as const)
  encoded.sort(([a, x], [b, y]) => (a < b ? -1 : a > b ? 1 : x < y ? -1 : x > y ? 1 : 0))
  const port = url.port === '' ? '' : `:${url.port}`
  const base = `${url.protocol}//${url.hostname.toLowerCase()}${port}${url.pathname}`
  return [method.toUpperCase(), encode(base), encode(encoded.map(pair => pair.join('=')).join('&'))].join('&')
}

/** The signature of a base string by consumer and, where there is one, token secret. */
export const sign = (base: string, consumerSecret: string, tokenSecret = ''): string =>
  createHmac('sha1', `${encode(consumerSecret)}&${encode(tokenSecret)}`)
    .update(base)
    .digest('base64')

/** Whether the request is signed by these secrets. */
export function signatureHolds(
  method: string,
  url: URL,
  oauth: Record<string, string>,
  consumerSecret: string,
  tokenSecret = '',
): boolean {
  if (oauth.oauth_signature_method !== 'HMAC-SHA1') return false
  const expected = Buffer.from(sign(baseString(method, url, oauth), consumerSecret, tokenSecret))
  const given = Buffer.from(oauth.oauth_signature ?? '')
  return expected.length === given.length && timingSafeEqual(expected, given)
}
