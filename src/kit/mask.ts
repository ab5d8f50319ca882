/**
 * Keeps secrets out of logs and recordings. Three ways in which a secret is known: by the key it stands under (`adminPass`), by the
 * header it travels in (`X-Auth-Token`), or by its own looks wherever it stands in a text (a Fernet token, a PEM private key, a
 * password inside a URL). A masked value keeps its type, so that a masked body still fits its schema.
 */

/** What stands in place of a secret. */
export const MASK = '********'

const SECRET_HEADERS = new Set([
  'authorization',
  'proxy-authorization',
  'cookie',
  'set-cookie',
  'x-auth-token',
  'x-subject-token',
  'x-service-token',
  'x-storage-token',
  'x-auth-key',
  'x-storage-pass',
  'x-account-meta-temp-url-key',
  'x-account-meta-temp-url-key-2',
  'x-container-meta-temp-url-key',
  'x-container-meta-temp-url-key-2',
  'openstack-auth-receipt',
  'x-instance-id-signature',
])

/** Keys, in lower case and without `-` and `_`, whose value is a secret. */
const SECRET_KEYS = new Set([
  ...[...SECRET_HEADERS].map(h => h.replaceAll('-', '')),
  'password',
  'adminpass',
  'secret',
  'token',
  'accesstoken',
  'refreshtoken',
  'idtoken',
  'passcode',
  'passphrase',
  'privatekey',
  'cakey',
  'psk',
  'apikey',
  'accesskey',
  'secretkey',
  'userdata',
  'clientassertion',
  'codeverifier',
  'devicecode',
  'samlresponse',
  'authkey',
  'configdrive',
  'oauthverifier',
])
/** … or that end so: `original_password`, `client_secret`, `oauth_token_secret`, `ipmi_password`. */
const SECRET_ENDING = /(password|passwd|adminpass|secret|passphrase|privatekey|authtoken|agenttoken|secrettoken|sharedkey)$/

const IN_TEXT =
  /gAAAA[A-Za-z0-9_-]{40,}={0,2}|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)|eyJ[\w-]{8,}\.eyJ[\w-]+\.[\w-]+/g
const IN_URL = /(:\/\/[^:/@\s"']*):[^@/\s"']+@/g
const IN_QUERY =
  /((?:[?&]|%3F|%26)(?:token|password|secret|client_secret|access_token|id_token|code|signature|temp_url_sig|x-amz-signature|x-amz-credential|oauth_token|oauth_verifier)(?:=|%3D))(?:(?!%26)[^&\s"'#])+/gi
const IN_JSON = /("[^"\\]*"\s*:\s*)"((?:[^"\\]|\\.)*)"/g
const IN_HEADER =
  /\b(x-(?:auth|subject|service|storage)-token|authorization|x-auth-key)(["']?\s*[:=]\s*["']?)(?:(?:basic|bearer|aws4-hmac-sha256)\s+)?[^\s"',;]+/gi
/** Cheap guard: most texts hold nothing that any of the above could match. */
const SUSPICIOUS = /gAAAA|PRIVATE KEY|eyJ|:\/\/|[?&]|%3F|":|" :|token|authorization|x-auth-key/i

/** Whether values under this key (of JSON, of a form, of a log record) are secret. */
export function isSecretKey(key: string): boolean {
  let known = keyCache.get(key)
  if (known === undefined) {
    const plain = key.toLowerCase().replaceAll(/[-_.]/g, '')
    known = SECRET_KEYS.has(plain) || SECRET_ENDING.test(plain)
    if (keyCache.size < 5000) keyCache.set(key, known)
  }
  return known
}
const keyCache = new Map<string, boolean>()

/** Whether the value of this HTTP header is secret. */
export function isSecretHeader(name: string): boolean {
  return SECRET_HEADERS.has(name.toLowerCase())
}

/** The text with everything replaced that looks like a secret; the same string when there is nothing. */
export function maskText(text: string): string {
  if (!SUSPICIOUS.test(text)) return text
  return text
    .replace(IN_TEXT, MASK)
    .replace(IN_URL, `$1:${MASK}@`)
    .replace(IN_QUERY, `$1${MASK}`)
    .replace(IN_JSON, (whole, name: string, value: string) =>
      isSecretKey(name.slice(1, name.indexOf('"', 1))) && value ? `${name}"${MASK}"` : whole,
    )
    .replace(IN_HEADER, `$1$2${MASK}`)
}

/** A secret of the same type: digits stay digits (a passcode), base64 stays base64, a JSON document in a string stays one. */
function masked(value: unknown): unknown {
  if (typeof value === 'number') return 0
  if (typeof value !== 'string' || value === '') return value
  return /^[0-9]+$/.test(value) ? '0'.repeat(value.length) : MASK
}

/**
 * A deep copy of JSON-like data with the secrets masked by key and by looks. What a value that is no secret holds stays as it is.
 * Errors become `{ type, message, stack, cause, … }`; Dates and others with `toJSON` what that gives. What is nested deeper than
 * `levels` (cycles are) becomes a note.
 */
export function maskSecrets(value: unknown, levels = 12): unknown {
  if (typeof value === 'string') return maskText(value)
  if (typeof value === 'bigint') return String(value)
  if (typeof value !== 'object' || value === null) return value
  if (levels < 0) return '[deep]'
  if (value instanceof Error) return maskError(value, levels)
  if (ArrayBuffer.isView(value)) return `[${value.byteLength} bytes]`
  if (Array.isArray(value)) return value.map(item => maskSecrets(item, levels - 1))
  if ('toJSON' in value && typeof value.toJSON === 'function') return maskSecrets(value.toJSON(), levels - 1)
  const out: Record<string, unknown> = {}
  for (const [key, item] of Object.entries(value)) {
    // Assigning would call the setter of __proto__, and lose the key.
    if (key === '__proto__') Object.defineProperty(out, key, { value: maskMember(key, item, levels), enumerable: true })
    else out[key] = maskMember(key, item, levels)
  }
  return out
}

function maskMember(key: string, item: unknown, levels: number): unknown {
  if (key === 'blob' && typeof item === 'string') return maskBlob(item)
  if (!isSecretKey(key) || (typeof item === 'object' && item !== null && !Array.isArray(item)))
    return maskSecrets(item, levels - 1)
  // A config drive may also be a mere yes or no, which is no secret.
  if (/^config_?drive$/i.test(key) && /^(true|false)$/i.test(String(item))) return item
  if (/^(user_?data|config_?drive)$/i.test(key)) return typeof item === 'string' && item ? BASE64_MASK : item
  return Array.isArray(item)
    ? item.map(one => (typeof one === 'object' ? maskSecrets(one, levels - 1) : masked(one)))
    : masked(item)
}
/** User data and config drives are checked to be base64 by the API's schema. */
const BASE64_MASK = Buffer.from(MASK).toString('base64')

/** A credential's blob: JSON in a string with an open `access` and a `secret`, or simply a secret. */
function maskBlob(text: string): string {
  const value = parsed(text)
  if (typeof value === 'object' && value !== null) return JSON.stringify(maskSecrets(value))
  return text === '' ? text : MASK
}

function maskError(error: Error, levels: number): Record<string, unknown> {
  const own = Object.fromEntries(Object.entries(error).filter(([key]) => key !== 'cause'))
  return {
    type: error.name,
    message: maskText(error.message),
    stack: maskText(error.stack ?? ''),
    ...(error.cause === undefined ? {} : { cause: maskSecrets(error.cause, levels - 1) }),
    ...(maskSecrets(own, levels - 1) as Record<string, unknown>),
  }
}

/**
 * A request or response body as text: masked as JSON where it is JSON, as a form where it is one, else by looks. A body without
 * secrets comes back byte for byte; so does one that is broken JSON, but for what looks like a secret in it.
 */
export function maskBody(text: string, contentType = ''): string {
  if (/x-www-form-urlencoded/i.test(contentType)) return maskForm(text)
  const value = /^\s*[{[]/.test(text) ? parsed(text) : undefined
  if (value === undefined) return maskText(text)
  const clean = JSON.stringify(maskSecrets(value, BODY_LEVELS))
  return clean === JSON.stringify(value) ? text : clean
}
/** Deeper than any API's bodies, and shallow enough for the stack. */
const BODY_LEVELS = 200

/** The JSON value of a text; undefined when it is none, or one nested so deep that it could not be written again. */
function parsed(text: string): unknown {
  try {
    const value: unknown = JSON.parse(text)
    JSON.stringify(value)
    return value
  } catch {
    return undefined
  }
}

function maskForm(text: string): string {
  return text
    .split('&')
    .map(pair => {
      const [name = '', value] = pair.split('=', 2)
      return value && (isSecretKey(name) || /^(code|assertion)$/i.test(name)) ? `${name}=${MASK}` : pair
    })
    .join('&')
}

/** A URL with tokens, signatures and passwords masked, in its query and where an API takes a token as part of the path. */
export function maskUrl(url: string): string {
  return maskText(url).replace(/(\/os-console-auth-tokens\/)[^/?#]+/, `$1${MASK}`)
}
