import { createCipheriv, createDecipheriv, createHmac, randomBytes, timingSafeEqual } from 'node:crypto'

// Fernet, https://github.com/fernet/spec: version 0x80 | seconds, 8 bytes | IV, 16 | AES-128-CBC | HMAC-SHA256, 32;
// written in base64url. The first half of a 32-byte key signs, the second half encrypts.

const VERSION = 0x80
const HEAD = 1 + 8 + 16
const MAC = 32

/** Encrypts `plain` under `keys[0]`; `issued` is in seconds since 1970. With `padded` the text keeps its `=`. */
export function fernetSeal(keys: Buffer[], plain: Uint8Array, issued: number, padded = false): string {
  const key = keys[0]!
  const head = Buffer.alloc(HEAD)
  head[0] = VERSION
  head.writeBigUInt64BE(BigInt(issued), 1)
  const iv = randomBytes(16)
  iv.copy(head, 9)
  const cipher = createCipheriv('aes-128-cbc', key.subarray(16), iv)
  const body = Buffer.concat([head, cipher.update(plain), cipher.final()])
  const sealed = Buffer.concat([body, createHmac('sha256', key.subarray(0, 16)).update(body).digest()])
  const text = sealed.toString('base64url')
  return padded ? text.padEnd(Math.ceil(text.length / 4) * 4, '=') : text
}

/** Decrypts what any of `keys` sealed; null when it is not Fernet, was changed, or no key fits. */
export function fernetOpen(keys: Buffer[], text: string): { plain: Buffer; issued: number } | null {
  if (!/^[A-Za-z0-9_-]+={0,2}$/.test(text)) return null
  const sealed = Buffer.from(text, 'base64url')
  if (sealed.length < HEAD + 16 + MAC || sealed[0] !== VERSION || (sealed.length - HEAD - MAC) % 16 !== 0) return null
  const body = sealed.subarray(0, -MAC)
  const mac = sealed.subarray(-MAC)
  for (const key of keys) {
    if (!timingSafeEqual(createHmac('sha256', key.subarray(0, 16)).update(body).digest(), mac)) continue
    const decipher = createDecipheriv('aes-128-cbc', key.subarray(16), sealed.subarray(9, HEAD))
    const plain = Buffer.concat([decipher.update(sealed.subarray(HEAD, -MAC)), decipher.final()])
    return { plain, issued: Number(sealed.readBigUInt64BE(1)) }
  }
  return null
}
