import { argon2, createHash, createHmac, pbkdf2, randomBytes, scrypt, timingSafeEqual } from 'node:crypto'
import { availableParallelism } from 'node:os'
import { promisify } from 'node:util'
import bcrypt from '@node-rs/bcrypt'
import { unavailable } from '#kit/fault.ts'

// Password hashes as passlib and Keystone write them, so that a user table can be taken over, and given back:
//
//   $scrypt$ln=16,r=8,p=1$SALT$HASH                     base64 without padding
//   $pbkdf2-sha512$25000$SALT$HASH                      the same with '.' for '+'
//   $2b$12$...                                          bcrypt (also 2a, 2y)
//   $bcrypt-sha256$v=2,t=2b,r=12$SALT$HASH              bcrypt over an HMAC of the password: no 72-byte limit
//   $argon2id$v=19$m=19456,t=2,p=1$SALT$HASH            as in the PHC string format; Keystone itself cannot read this one
//
// A hash costs about a quarter of a second of one core on purpose. All run on the thread pool, at most one a core at once:
// more would only make every login slower and starve what else the pool does (file reads, name lookups).

/** How new passwords are hashed; unset costs mean the defaults. */
export interface Hashing {
  algorithm: 'scrypt' | 'bcrypt' | 'bcrypt_sha256' | 'pbkdf2_sha512' | 'argon2id'
  /** log2 of N for scrypt, log2 of rounds for bcrypt, iterations for pbkdf2, passes for argon2id */
  rounds?: number
  /** bytes, by default 16 */
  saltBytes?: number
  /** scrypt's r and p */
  blockSize?: number
  parallelism?: number
}

const scryptAsync = promisify(scrypt) as (
  password: Buffer,
  salt: Buffer,
  length: number,
  options: { N: number; r: number; p: number; maxmem: number },
) => Promise<Buffer>
const pbkdf2Async = promisify(pbkdf2)
const argon2Async = promisify(argon2)

const slots = availableParallelism()
const QUEUE_MAX = 1000
const waiting: (() => void)[] = []
let running = 0

/** Runs `work` when one of the slots is free; throws `unavailable` when the queue is longer than anyone would wait for. */
async function slot<T>(work: () => Promise<T>): Promise<T> {
  if (running >= slots) {
    if (waiting.length >= QUEUE_MAX)
      throw unavailable('Too many authentications at once. Try again later.', { headers: { 'Retry-After': '5' } })
    await new Promise<void>(go => waiting.push(go))
  } else running++
  try {
    return await work()
  } finally {
    const next = waiting.shift()
    if (next) next()
    else running--
  }
}

const b64 = (bytes: Buffer): string => bytes.toString('base64').replace(/=+$/, '')
const unb64 = (text: string): Buffer => Buffer.from(text.replaceAll('.', '+'), 'base64')

const scryptRun = (password: Buffer, salt: Buffer, ln: number, r: number, p: number, length: number) =>
  scryptAsync(password, salt, length, { N: 2 ** ln, r, p, maxmem: 256 * 2 ** ln * r + 2 ** 20 })

/** Hashes `password` (UTF-8) in the format of `how`. */
export function passwordHash(password: string, how: Hashing): Promise<string> {
  return slot(() => hash(Buffer.from(password), how))
}

async function hash(password: Buffer, how: Hashing): Promise<string> {
  const salt = randomBytes(how.saltBytes ?? 16)
  switch (how.algorithm) {
    case 'scrypt': {
      const [ln, r, p] = [how.rounds ?? 16, how.blockSize ?? 8, how.parallelism ?? 1]
      return `$scrypt$ln=${ln},r=${r},p=${p}$${b64(salt)}$${b64(await scryptRun(password, salt, ln, r, p, 32))}`
    }
    case 'bcrypt':
      return bcrypt.hash(password.subarray(0, 72), { cost: how.rounds ?? 12 })
    case 'bcrypt_sha256': {
      const cost = how.rounds ?? 12
      const head = await bcrypt.genSalt({ cost })
      const saltText = head.slice(-22)
      const inner = createHmac('sha256', saltText).update(password).digest('base64')
      return `$bcrypt-sha256$v=2,t=2b,r=${cost}$${saltText}$${(await bcrypt.hash(inner, { salt: head })).slice(-31)}`
    }
    case 'pbkdf2_sha512': {
      const rounds = how.rounds ?? 25000
      const digest = await pbkdf2Async(password, salt, rounds, 64, 'sha512')
      return `$pbkdf2-sha512$${rounds}$${b64(salt).replaceAll('+', '.')}$${b64(digest).replaceAll('+', '.')}`
    }
    case 'argon2id': {
      const [memory, passes, lanes] = [19456, how.rounds ?? 2, how.parallelism ?? 1]
      const digest = await argon2Async('argon2id', {
        message: password,
        nonce: salt,
        memory,
        passes,
        parallelism: lanes,
        tagLength: 32,
      })
      return `$argon2id$v=19$m=${memory},t=${passes},p=${lanes}$${b64(salt)}$${b64(digest)}`
    }
  }
}

/**
 * Whether `password` gives `stored`. Without a stored hash (no such user) it works as long and answers no, so that time does
 * not tell whether a user exists. Throws when the stored hash is of an unknown kind.
 */
export async function passwordVerify(password: string, stored: string | null, how: Hashing): Promise<boolean> {
  const against = stored ?? (await decoy(how))
  const right = await slot(() => verify(Buffer.from(password), against))
  return right && stored !== null
}

const decoys = new Map<string, Promise<string>>()
function decoy(how: Hashing): Promise<string> {
  const key = JSON.stringify(how)
  let made = decoys.get(key)
  if (!made) {
    made = passwordHash(randomBytes(16).toString('hex'), how)
    decoys.set(key, made)
  }
  return made
}

const same = (a: Buffer, b: Buffer): boolean => a.length === b.length && timingSafeEqual(a, b)

/** The numbers of a list like `ln=16,r=8,p=1`. */
function parameters(text: string): Record<string, number> {
  return Object.fromEntries(
    text
      .split(',')
      .map(pair => pair.split('=') as [string, string])
      .map(([name, value]) => [name, Number(value)]),
  )
}

async function verify(password: Buffer, stored: string): Promise<boolean> {
  const parts = stored.split('$')
  const kind = parts[1]
  switch (kind) {
    case 'scrypt': {
      const { ln, r, p } = parameters(parts[2]!)
      const digest = unb64(parts[4]!)
      return same(await scryptRun(password, unb64(parts[3]!), ln!, r!, p!, digest.length), digest)
    }
    case 'pbkdf2-sha512': {
      const digest = unb64(parts[4]!)
      return same(await pbkdf2Async(password, unb64(parts[3]!), Number(parts[2]), digest.length, 'sha512'), digest)
    }
    case 'bcrypt-sha256':
      return verifyBcryptSha256(password, parts)
    case '2':
    case '2a':
    case '2b':
    case '2x':
    case '2y':
      return bcrypt.verify(password.subarray(0, 72), stored)
    case 'argon2id': {
      const { m, t, p } = parameters(parts[3]!)
      const digest = unb64(parts[5]!)
      const options = {
        message: password,
        nonce: unb64(parts[4]!),
        memory: m!,
        passes: t!,
        parallelism: p!,
        tagLength: digest.length,
      }
      return same(await argon2Async('argon2id', options), digest)
    }
    default:
      throw new Error(`a password hash of unknown kind: ${kind}`)
  }
}

/** Version 2 hashes an HMAC keyed by the salt; version 1 (`$bcrypt-sha256$2a,12$SALT$HASH`) a plain digest. */
function verifyBcryptSha256(password: Buffer, parts: string[]): Promise<boolean> {
  const [, , options, salt, digest] = parts as [string, string, string, string, string]
  const fields = Object.fromEntries(options.split(',').map(pair => pair.split('=')))
  const first = !('v' in fields)
  const [type, cost] = first ? options.split(',') : [fields.t, fields.r]
  const inner = first ? createHash('sha256').update(password) : createHmac('sha256', salt).update(password)
  return bcrypt.verify(inner.digest('base64'), `$${type}$${String(cost).padStart(2, '0')}$${salt}${digest}`)
}
