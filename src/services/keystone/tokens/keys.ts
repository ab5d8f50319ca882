import { randomBytes } from 'node:crypto'
import { mkdirSync, readdirSync, readFileSync, renameSync, statSync, unlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

// A key repository is a folder of symmetric keys, one a file, named by number:
//
//   0        the staged key: not yet used to encrypt, but already accepted everywhere
//   highest  the primary key: encrypts, decrypts
//   between  secondary keys: decrypt only, until they are purged
//
// Rotation turns the staged key into the next primary and stages a new one. Because a key is accepted by all before it is
// used by any, copying the folder to the other machines needs no pause. Files, names and contents are those of Keystone's
// fernet_tokens, fernet_receipts and credential repositories, so a folder can be shared with it.

/** The keys of a repository: `keys[0]` encrypts, all decrypt. */
export interface Keys {
  keys: Buffer[]
}

/** A repository that is read again by itself when its folder changes. */
export interface KeyRepository {
  folder: string
  /** The present keys; throws when the folder has none. Looks at the folder at most once a second. */
  keys(): Buffer[]
  /** Reads the folder now. */
  reload(): Buffer[]
}

const KEY_BYTES = 32
const RECHECK_MS = 1000

const keyEncode = (key: Buffer): string => `${key.toString('base64url')}=`

function keyDecode(text: string, file: string): Buffer {
  const key = Buffer.from(text.trim(), 'base64url')
  if (key.length !== KEY_BYTES) throw new Error(`${file} is not a key: it has ${key.length} bytes, not ${KEY_BYTES}`)
  return key
}

function keyNumbers(folder: string): number[] {
  return readdirSync(folder)
    .filter(name => /^\d+$/.test(name))
    .map(Number)
    .sort((a, b) => b - a)
}

/** Opens the repository in `folder` (see above); the folder is first read when a key is first asked for. */
export function keyRepository(folder: string): KeyRepository {
  let keys: Buffer[] = []
  let seen = ''
  let checked = Number.NEGATIVE_INFINITY
  const mark = () => {
    const { mtimeMs, ctimeMs, ino } = statSync(folder)
    return `${ino}:${mtimeMs}:${ctimeMs}`
  }
  const reload = () => {
    const before = mark()
    const next = keyNumbers(folder).map(n => keyDecode(readFileSync(join(folder, String(n)), 'latin1'), join(folder, String(n))))
    if (next.length === 0) throw new Error(`no key in ${folder}: set it up first`)
    keys = next
    seen = before
    return keys
  }
  return {
    folder,
    keys() {
      const now = performance.now()
      if (now - checked > RECHECK_MS) {
        checked = now
        if (mark() !== seen) reload()
      }
      return keys
    },
    reload,
  }
}

function keyWrite(folder: string, number: number): void {
  const draft = join(folder, `.new-${process.pid}`)
  writeFileSync(draft, keyEncode(randomBytes(KEY_BYTES)), { mode: 0o600, flush: true })
  renameSync(draft, join(folder, String(number)))
}

/** Makes `folder` a repository with a staged and a primary key, unless it has keys already. Safe to run twice. */
export function keySetup(folder: string): void {
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  if (keyNumbers(folder).length > 0) return
  keyWrite(folder, 1)
  keyWrite(folder, 0)
}

/**
 * Rotates: the staged key becomes primary, a new one is staged, and the oldest secondary keys go until `maxActive` keys are
 * left (at least a staged and a primary one). Data under a purged key can no longer be read, so `maxActive` must span the
 * longest life of what the keys protect.
 */
export function keyRotate(folder: string, maxActive: number): void {
  const numbers = keyNumbers(folder)
  const primary = (numbers[0] ?? 0) + 1
  if (numbers.includes(0)) renameSync(join(folder, '0'), join(folder, String(primary)))
  else keyWrite(folder, primary)
  keyWrite(folder, 0)
  const secondaries = keyNumbers(folder).filter(n => n !== 0 && n !== primary)
  for (const n of secondaries.slice(Math.max(0, maxActive - 2))) unlinkSync(join(folder, String(n)))
}
