/** Where a name lives: MD5 of its path between two secrets of the cluster, as Swift's `hash_path`. */
import { hash } from 'node:crypto'

export interface HashSecrets {
  prefix: string
  suffix: string
}

/** The 16 bytes that place `/account/container/object`. */
export function hashBytes(secrets: HashSecrets, account: string, container?: string | null, object?: string | null): Buffer {
  const path =
    object != null ? `/${account}/${container}/${object}` : container != null ? `/${account}/${container}` : `/${account}`
  return hash('md5', `${secrets.prefix}${path}${secrets.suffix}`, 'buffer')
}

/** The same in hex, the name of its folder. */
export const hashName = (secrets: HashSecrets, account: string, container?: string | null, object?: string | null): string =>
  hashBytes(secrets, account, container, object).toString('hex')

export const md5 = (data: Buffer | string): string => hash('md5', data, 'hex')
