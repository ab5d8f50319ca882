import { decode } from '@msgpack/msgpack'

// What a token says of itself, and how Keystone packs it. The payload of a Fernet token is a msgpack array
// [version, ...fields]; the version tells the kind of token and thereby the fields. A real Keystone with the same keys reads
// ours and we read its (keystone/token/token_formatters.py names the versions). Three conventions of that format:
//
//   an id       [true, 16 bytes] when it is 32 hex digits, else [false, text]: halves the length of the token
//   methods     a bit each, in the order of the setting auth.methods
//   expiry      a float, seconds since 1970
//
// msgpack.packb of Python before 1.0 wrote bytes as text; `rawStrings` reads both.

/** The facts carried by a token (or, with a different set of fields, by an authentication receipt). */
export interface Claims {
  userId: string
  methods: string[]
  /** seconds since 1970 */
  issued: number
  expires: number
  /** the token's own audit id, then that of the first token of its chain */
  auditIds: string[]
  system?: 'all'
  domainId?: string
  projectId?: string
  trustId?: string
  groupIds?: string[]
  idpId?: string
  protocolId?: string
  accessTokenId?: string
  appCredId?: string
  /** SHA-256 of the client certificate the token is bound to (RFC 8705), base64url */
  thumbprint?: string
}

const HEX32 = /^[0-9a-f]{32}$/

type Value = number | string | boolean | null | Buffer | Float | Value[]
interface Float {
  float: number
}

function pack(value: Value, out: Buffer[]): void {
  if (Buffer.isBuffer(value)) out.push(value.length < 256 ? Buffer.of(0xc4, value.length) : sized(0xc5, value.length), value)
  else if (Array.isArray(value)) {
    out.push(value.length < 16 ? Buffer.of(0x90 | value.length) : sized(0xdc, value.length))
    for (const item of value) pack(item, out)
  } else if (value === null) out.push(Buffer.of(0xc0))
  else if (typeof value === 'boolean') out.push(Buffer.of(value ? 0xc3 : 0xc2))
  else if (typeof value === 'number') out.push(packInteger(value))
  else if (typeof value === 'string') {
    const text = Buffer.from(value)
    if (text.length < 32) out.push(Buffer.of(0xa0 | text.length), text)
    else out.push(text.length < 256 ? Buffer.of(0xd9, text.length) : sized(0xda, text.length), text)
  } else {
    const float = Buffer.alloc(9)
    float[0] = 0xcb
    float.writeDoubleBE(value.float, 1)
    out.push(float)
  }
}

function sized(type: number, length: number): Buffer {
  const head = Buffer.alloc(3)
  head[0] = type
  head.writeUInt16BE(length, 1)
  return head
}

function packInteger(value: number): Buffer {
  if (value < 128) return Buffer.of(value)
  return value < 256 ? Buffer.of(0xcc, value) : sized(0xcd, value)
}

const id = (text: string): Value => (HEX32.test(text) ? [true, Buffer.from(text, 'hex')] : [false, text])
const optional = (text: string | undefined): Value => (text === undefined ? [false, null] : id(text))
const audits = (ids: string[]): Value => ids.map(text => Buffer.from(text, 'base64url'))

function bits(methods: string[], known: string[]): number {
  let sum = 0
  for (const method of new Set(methods)) {
    const at = known.indexOf(method)
    // As Keystone does: a method without a bit (ec2credential) is not told.
    if (at >= 0) sum += 2 ** at
  }
  return sum
}

/** Packs `claims`; `known` is the configured list of auth methods (its order is part of the format). */
export function payloadPack(claims: Claims, known: string[]): Buffer {
  const user = id(claims.userId)
  const methods = bits(claims.methods, known)
  const expires = { float: claims.expires }
  const audit = audits(claims.auditIds)
  const groups = () => (claims.groupIds ?? []).map(id)
  const out: Buffer[] = []
  pack(fields(), out)
  return Buffer.concat(out)

  function fields(): Value {
    const { projectId, domainId } = claims
    if (claims.thumbprint !== undefined) {
      return [10, user, methods, optional(projectId), optional(domainId), expires, audit, [false, claims.thumbprint]]
    }
    if (claims.trustId !== undefined)
      return [3, user, methods, id(projectId!), expires, audit, Buffer.from(claims.trustId, 'hex')]
    if (claims.accessTokenId !== undefined) return [7, user, methods, id(projectId!), id(claims.accessTokenId), expires, audit]
    if (claims.appCredId !== undefined) return [9, user, methods, id(projectId!), expires, audit, id(claims.appCredId)]
    if (claims.idpId !== undefined && claims.system === undefined) {
      const idp = [id(claims.idpId), claims.protocolId ?? '']
      if (projectId !== undefined) return [5, user, methods, id(projectId), groups(), ...idp, expires, audit]
      if (domainId !== undefined) return [6, user, methods, id(domainId), groups(), ...idp, expires, audit]
      return [4, user, methods, groups(), ...idp, expires, audit]
    }
    if (claims.system !== undefined) return [8, user, methods, claims.system, expires, audit]
    if (projectId !== undefined) return [2, user, methods, id(projectId), expires, audit]
    if (domainId !== undefined) {
      return [1, user, methods, HEX32.test(domainId) ? Buffer.from(domainId, 'hex') : domainId, expires, audit]
    }
    return [0, user, methods, expires, audit]
  }
}

const text = (value: unknown): string => {
  if (value instanceof Uint8Array) return Buffer.from(value).toString('utf8')
  if (typeof value === 'string') return value
  throw new Error('text expected')
}

function readId(value: unknown): string {
  if (!Array.isArray(value) || value.length !== 2) throw new Error('id expected')
  const [binary, raw] = value as [unknown, unknown]
  return binary ? Buffer.from(raw as Uint8Array).toString('hex') : text(raw)
}

function readScope(project: unknown, domain: unknown): { projectId?: string; domainId?: string } {
  const set = (value: unknown) => Array.isArray(value) && value[1] !== null
  return { ...(set(project) && { projectId: readId(project) }), ...(set(domain) && { domainId: readId(domain) }) }
}

function readMethods(sum: unknown, known: string[]): string[] {
  return known.filter((_, at) => Math.floor(Number(sum) / 2 ** at) % 2 === 1)
}

const readAudits = (list: unknown): string[] => (list as Uint8Array[]).map(raw => Buffer.from(raw).toString('base64url'))
const readDomain = (raw: unknown): string => {
  const bytes = Buffer.from(raw as Uint8Array)
  return bytes.length === 16 ? bytes.toString('hex') : bytes.toString('utf8')
}

/** Unpacks a payload; null when it is of no known version or not a payload at all. */
export function payloadUnpack(plain: Buffer, issued: number, known: string[]): Claims | null {
  try {
    const [version, ...f] = decode(plain, { rawStrings: true }) as unknown[]
    const head = { userId: readId(f[0]), methods: readMethods(f[1], known), issued }
    const tail = (at: number) => ({ expires: Number(f[at]), auditIds: readAudits(f[at + 1]) })
    switch (version) {
      case 0:
        return { ...head, ...tail(2) }
      case 1:
        return { ...head, domainId: readDomain(f[2]), ...tail(3) }
      case 2:
        return { ...head, projectId: readId(f[2]), ...tail(3) }
      case 3:
        return { ...head, projectId: readId(f[2]), ...tail(3), trustId: Buffer.from(f[5] as Uint8Array).toString('hex') }
      case 4:
        return { ...head, groupIds: (f[2] as unknown[]).map(readId), idpId: readId(f[3]), protocolId: text(f[4]), ...tail(5) }
      case 5:
      case 6: {
        const scope = version === 5 ? { projectId: readId(f[2]) } : { domainId: readId(f[2]) }
        const groupIds = (f[3] as unknown[]).map(readId)
        return { ...head, ...scope, groupIds, idpId: readId(f[4]), protocolId: text(f[5]), ...tail(6) }
      }
      case 7:
        return { ...head, projectId: readId(f[2]), accessTokenId: readId(f[3]), ...tail(4) }
      case 8:
        return { ...head, system: text(f[2]) === 'all' ? 'all' : fail('system scope other than all'), ...tail(3) }
      case 9:
        return { ...head, projectId: readId(f[2]), ...tail(3), appCredId: readId(f[5]) }
      case 10:
        return { ...head, ...readScope(f[2], f[3]), ...tail(4), thumbprint: readId(f[6]) }
      default:
        return null
    }
  } catch {
    // Sealed by our key, yet no payload: another format of another time. The caller answers "no such token".
    return null
  }
}

function fail(message: string): never {
  throw new Error(message)
}
