import { resolve } from 'node:path'
import type { Db, Query } from '#kit/db/index.ts'
import { sql } from '#kit/db/index.ts'
import type { Static } from '#kit/http/schema.ts'
import type { Env } from '#kit/service.ts'
import { type Catalog, catalogLoad } from './catalog/catalog.ts'
import { keystoneSettings } from './settings.ts'
import { type TokenCache, tokenCache } from './tokens/cache.ts'
import type { Facts } from './tokens/facts.ts'
import { type JwsAlgorithm, jwsKeys, jwsSetup } from './tokens/jws.ts'
import { type KeyRepository, keyRepository, keySetup } from './tokens/keys.ts'
import { onOwnStale, STALE_CHANNEL } from './tokens/stale.ts'
import type { AppCredFact, Token } from './tokens/token.ts'
import type { Hashing } from './users/passwords.ts'

export type KeystoneSettings = Static<typeof keystoneSettings.schema>

/** What a process keeps of identity beside the database: settings, keys, and what it remembers of both. One for each Env. */
export interface Identity {
  settings: KeystoneSettings
  hashing: Hashing
  fernet: KeyRepository
  receipts: KeyRepository
  credentials: KeyRepository
  jws: ReturnType<typeof jwsKeys>
  tokens: TokenCache<Token>
  /** What new tokens stand on, by what was asked. */
  facts: TokenCache<Facts>
  appCreds: TokenCache<AppCredFact>
  /** The catalog's rows; read again after any change of them. */
  catalog(): Promise<Catalog>
  /** Starts to hear what other processes change. Without it nothing is remembered between requests. Returns how to stop. */
  start(): Promise<() => Promise<void>>
}

const identities = new WeakMap<Env, Identity>()

/** The identity state of this Env, made at first use. */
export function identityOf(env: Env): Identity {
  let identity = identities.get(env)
  if (!identity) {
    identity = identityMake(env)
    identities.set(env, identity)
  }
  return identity
}

const once = <T>(make: () => T): (() => T) => {
  let made: { value: T } | undefined
  return () => {
    made ??= { value: make() }
    return made.value
  }
}

function repository(folder: string): KeyRepository {
  const open = once(() => {
    keySetup(folder)
    return keyRepository(folder)
  })
  return { folder, keys: () => open().keys(), reload: () => open().reload() }
}

/** A configured path: as it stands when absolute, else below the data folder. */
export const folderOf = (env: Env, path: string): string => resolve(env.config.dataDir, path)

function identityMake(env: Env): Identity {
  const settings = env.config.of(keystoneSettings)
  const at = (folder: string) => folderOf(env, folder)
  const { identity, jwt_tokens: jwt } = settings
  const tokens = tokenCache<Token>(settings.token.cache_size)
  const facts = tokenCache<Facts>(settings.token.cache_size)
  const appCreds = tokenCache<AppCredFact>(settings.token.cache_size)
  const caches = [tokens, facts, appCreds]
  for (const cache of caches) cache.close()
  const [privateKeys, publicKeys] = [at(jwt.jws_private_key_repository), at(jwt.jws_public_key_repository)]
  const jws = once(() => {
    jwsSetup(privateKeys, publicKeys, jwt.jws_algorithm as JwsAlgorithm)
    return jwsKeys(privateKeys, publicKeys)
  })
  const catalog = catalogMemory(env.db.read, settings.endpoint_filter.return_all_endpoints_if_no_filter)
  return {
    settings,
    hashing: {
      algorithm: identity.password_hash_algorithm as Hashing['algorithm'],
      rounds: identity.password_hash_rounds,
      saltBytes: identity.salt_bytesize,
      blockSize: identity.scrypt_block_size,
      parallelism: identity.scrypt_parallelism,
    },
    fernet: repository(at(settings.fernet_tokens.key_repository)),
    receipts: repository(at(settings.fernet_receipts.key_repository)),
    credentials: repository(at(settings.credential.key_repository)),
    jws: () => jws()(),
    tokens,
    facts,
    appCreds,
    catalog: catalog.get,
    start: () => hear(env, caches, catalog),
  }
}

interface CatalogMemory {
  get(): Promise<Catalog>
  forget(): void
  remember(on: boolean): void
}

function catalogMemory(db: Query, wholeElse: boolean): CatalogMemory {
  let kept: Promise<Catalog> | undefined
  let on = false
  return {
    get() {
      if (kept) return kept
      const loading = catalogLoad(db, wholeElse)
      if (on) {
        kept = loading
        loading.catch(() => {
          if (kept === loading) kept = undefined
        })
      }
      return loading
    },
    forget() {
      kept = undefined
    },
    remember(yes) {
      on = yes
      kept = undefined
    },
  }
}

/** How often it is looked whether a notification was missed: with a database far away, the connection may be dead for long without a word. */
const POLL_MS = { local: 5000, remote: 1000 }
/** Ids are given before commits, so a smaller one may appear after a larger: the poll looks back over this many. */
const LOOK_BACK = 500

/**
 * Keeps the memory honest: a notification drops what went stale at once; a poll behind it finds what a notification missed; and
 * while neither can be trusted (connection lost, poll failing) nothing is remembered.
 */
type Forgetful = Pick<TokenCache<unknown>, 'forget' | 'open' | 'close'>

async function hear(env: Env, caches: readonly Forgetful[], catalog: CatalogMemory): Promise<() => Promise<void>> {
  const apply = (keys: readonly string[]) => {
    if (keys.some(key => key === 'all' || key === 'catalog')) catalog.forget()
    for (const cache of caches) cache.forget(keys)
  }
  let heard = false
  const open = () => {
    heard = true
    for (const cache of caches) cache.open()
    catalog.remember(true)
  }
  const close = () => {
    heard = false
    forget()
  }
  const forget = () => {
    for (const cache of caches) cache.close()
    catalog.remember(false)
  }
  const seen = new Set<number>()
  let last = await lastStale(env.db)
  const stopOwn = onOwnStale(apply)
  const stopListening = await env.db.listen(
    STALE_CHANNEL,
    payload => {
      const [id, ...keys] = JSON.parse(payload) as [number, ...string[]]
      seen.add(id)
      apply(keys)
    },
    { onLost: close, onBack: open },
  )
  open()
  let polling = false
  const poll = async () => {
    if (polling) return
    polling = true
    try {
      const rows = await env.db.read
        .selectFrom('keystone.stales')
        .select(['id', 'keys'])
        .where('id', '>', last - LOOK_BACK)
        .where('at', '>', sql<Date>`now() - interval '2 minutes'`)
        .execute()
      for (const { id, keys } of rows) {
        if (!seen.has(id)) apply(keys)
        seen.add(id)
        last = Math.max(last, id)
      }
      for (const id of seen) if (id < last - 2 * LOOK_BACK) seen.delete(id)
      if (failed && heard) open()
      failed = false
    } catch (error) {
      failed = true
      forget()
      env.log.warn({ err: error }, 'identity cannot look for changes; tokens are checked against the database one by one')
    } finally {
      polling = false
    }
  }
  let failed = false
  const timer = setInterval(() => void poll(), env.db.local ? POLL_MS.local : POLL_MS.remote)
  timer.unref()
  return async () => {
    clearInterval(timer)
    stopOwn()
    stopListening()
    close()
  }
}

async function lastStale(db: Db): Promise<number> {
  const { rows } = await sql<{ id: number }>`select coalesce(max(id), 0) as id from keystone.stales`.execute(db.read)
  return rows[0]!.id
}
