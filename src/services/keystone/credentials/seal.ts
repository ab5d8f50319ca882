import { createHash } from 'node:crypto'
import { internal } from '#kit/fault.ts'
import type { Env } from '#kit/service.ts'
import { identityOf } from '../identity.ts'
import { fernetOpen, fernetSeal } from '../tokens/fernet.ts'

// Secrets of users (EC2 keys, TOTP seeds) are kept encrypted under the credential keys, in Keystone's form: Fernet, and beside
// it the SHA-1 of the key's file, by which a rotation finds what is still under an old key.

const keyHash = (key: Buffer): string =>
  createHash('sha1')
    .update(`${key.toString('base64url')}=`)
    .digest('hex')

/** Encrypts a blob under the primary key. */
export function credentialSeal(env: Env, blob: string): { sealed: string; key_hash: string } {
  const keys = identityOf(env).credentials.keys()
  return { sealed: fernetSeal(keys, Buffer.from(blob), Math.floor(Date.now() / 1000), true), key_hash: keyHash(keys[0]!) }
}

/** Decrypts a blob. Throws when its key is gone. */
export function credentialOpen(env: Env, sealed: string): string {
  const opened = fernetOpen(identityOf(env).credentials.keys(), sealed)
  if (!opened) throw internal('A credential cannot be decrypted: its key is no longer in the repository.')
  return opened.plain.toString('utf8')
}

/** Encrypts under the primary key all that is under another: after a rotation, before the next. Returns how many. */
export async function credentialsMigrate(env: Env): Promise<number> {
  const primary = keyHash(identityOf(env).credentials.reload()[0]!)
  return env.db.tx(async tx => {
    const rows = await tx
      .selectFrom('keystone.credentials')
      .select(['id', 'sealed'])
      .where('key_hash', '!=', primary)
      .forUpdate()
      .execute()
    for (const { id, sealed } of rows) {
      await tx
        .updateTable('keystone.credentials')
        .set(credentialSeal(env, credentialOpen(env, sealed)))
        .where('id', '=', id)
        .execute()
    }
    return rows.length
  })
}
