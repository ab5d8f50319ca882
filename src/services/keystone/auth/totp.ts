import { createHmac, timingSafeEqual } from 'node:crypto'
import type { Env } from '#kit/service.ts'
import { credentialOpen } from '../credentials/seal.ts'
import { identityOf } from '../identity.ts'
import { isEnabled, isLocked, lockedMeanwhile, loginFailed } from '../users/login.ts'
import { denied, type NamedRef, userLocate } from './locate.ts'

const PERIOD = 30
const ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'

/** Decodes base32 (RFC 4648), padding optional; null when it is not. */
export function base32(text: string): Buffer | null {
  const digits = text.toUpperCase().replace(/=+$/, '')
  const out: number[] = []
  let [bits, value] = [0, 0]
  for (const char of digits) {
    const digit = ALPHABET.indexOf(char)
    if (digit < 0) return null
    value = ((value << 5) | digit) & 0xfff
    bits += 5
    if (bits >= 8) {
      bits -= 8
      out.push((value >> bits) & 0xff)
    }
  }
  return Buffer.from(out)
}

/** The six digits of a secret at a time in seconds since 1970 (RFC 6238 with SHA-1, 30 s). */
export function passcode(secret: Buffer, seconds: number): string {
  const counter = Buffer.alloc(8)
  counter.writeBigUInt64BE(BigInt(Math.floor(seconds / PERIOD)))
  const mac = createHmac('sha1', secret).update(counter).digest()
  const at = mac[19]! & 0xf
  return String((mac.readUInt32BE(at) & 0x7fffffff) % 1_000_000).padStart(6, '0')
}

/** Checks a passcode against the user's credentials of type totp; returns the user's id or throws unauthorized. */
export async function totpLogin(env: Env, ref: NamedRef, code: string): Promise<string> {
  const { settings } = identityOf(env)
  const user = await userLocate(env.db.read, ref)
  if (!user || isLocked(user, settings.security_compliance) || !isEnabled(user, settings.security_compliance)) throw denied()
  const rows = await env.db.read
    .selectFrom('keystone.credentials')
    .select('sealed')
    .where('user_id', '=', user.id)
    .where('type', '=', 'totp')
    .execute()
  const now = Date.now() / 1000
  const given = Buffer.from(code)
  for (const { sealed } of rows) {
    const secret = base32(credentialOpen(env, sealed))
    if (!secret || secret.length === 0) continue
    for (let window = 0; window <= settings.totp.included_previous_windows; window++) {
      const expected = Buffer.from(passcode(secret, now - window * PERIOD))
      if (expected.length !== given.length || !timingSafeEqual(expected, given)) continue
      if (await lockedMeanwhile(env.db.read, user, settings.security_compliance)) throw denied()
      return user.id
    }
  }
  await loginFailed(env, user.id)
  throw denied()
}
