import { readFileSync } from 'node:fs'
import type { Client, Entry } from 'ldapts'
import { reason, unavailable } from '#kit/fault.ts'
import { OPTIONS } from '../domain_config/options.ts'

// Reads users and groups of a directory, as the options of Keystone's [ldap] section describe it, and checks passwords by binding.
// Nothing is ever written there.

export interface LdapUser {
  localId: string
  dn: string
  name: string
  enabled: boolean
  email?: string
  description?: string
}

export interface LdapGroup {
  localId: string
  dn: string
  name: string
  description: string
  /** DNs or ids of users, as `group_members_are_ids` says */
  members: string[]
}

export interface Directory {
  users(): Promise<LdapUser[]>
  groups(): Promise<LdapGroup[]>
  /** A user by name or by id; null when there is none. */
  find(by: { name: string } | { localId: string }): Promise<LdapUser | null>
  /** Whether the directory takes this password for this entry. */
  holds(dn: string, password: string): Promise<boolean>
  /** Whether a group's member list names this user. */
  isMember(group: LdapGroup, user: LdapUser): boolean
}

type Options = Record<string, unknown>

const TIMEOUT_MS = 10_000
const PAGE = 500

/** A value inside a filter (RFC 4515). */
const escape = (text: string): string =>
  text.replace(/[\\*()\0]/g, char => `\\${char.charCodeAt(0).toString(16).padStart(2, '0')}`)
/** Whether a directory refused a name and password. (The library is loaded by who has a directory.) */
const isRefusal = async (error: unknown): Promise<boolean> => error instanceof (await import('ldapts')).InvalidCredentialsError

const truth = (value: unknown): boolean => value === true || /^(true|yes|on|1)$/i.test(String(value))
const sameDn = (a: string, b: string): boolean => normal(a) === normal(b)
const normal = (dn: string): string => dn.toLowerCase().replace(/\s*([,=])\s*/g, '$1')

function texts(entry: Entry, attribute: unknown): string[] {
  if (typeof attribute !== 'string' || attribute === '') return []
  const key = Object.keys(entry).find(name => name.toLowerCase() === attribute.toLowerCase())
  const value = key === undefined ? [] : entry[key]
  return [value]
    .flat()
    .map(String)
    .filter(text => text !== '')
}

/** Opens a directory with the options of a domain; what is not set has Keystone's default. */
export function directory(given: Options): Directory {
  const defaults = Object.fromEntries(Object.entries(OPTIONS.ldap!).map(([name, { initial }]) => [name, initial]))
  const o: Options = { ...defaults, ...given }
  const text = (name: string) => String(o[name])
  const userBase = String(o.user_tree_dn ?? `ou=Users,${text('suffix')}`)
  const groupBase = String(o.group_tree_dn ?? `ou=UserGroups,${text('suffix')}`)
  const scope = o.query_scope === 'sub' ? 'sub' : 'one'
  const whole = (objectclass: string, extra: unknown, condition = '') =>
    `(&(objectClass=${escape(objectclass)})${condition}${typeof extra === 'string' && extra !== '' ? extra : ''})`

  async function connected<T>(dn: string | null, password: string, work: (client: Client) => Promise<T>): Promise<T> {
    const tlsOptions = {
      ...(typeof o.tls_cacertfile === 'string' && { ca: readFileSync(o.tls_cacertfile) }),
      rejectUnauthorized: o.tls_req_cert !== 'never' && o.tls_req_cert !== 'allow',
    }
    // Several servers may be named: the first that answers is asked.
    const urls = text('url')
      .split(/[\s,]+/)
      .filter(Boolean)
    let failure: unknown = new Error('no URL is configured')
    const { Client } = await import('ldapts')
    for (const url of urls) {
      const client = new Client({
        url,
        timeout: TIMEOUT_MS,
        connectTimeout: TIMEOUT_MS,
        ...(url.startsWith('ldaps:') && { tlsOptions }),
      })
      try {
        if (truth(o.use_tls)) await client.startTLS(tlsOptions)
        if (dn !== null) await client.bind(dn, password)
        return await work(client)
      } catch (error) {
        if (await isRefusal(error)) throw error
        failure = error
      } finally {
        await client.unbind().catch(() => {}) // the connection may never have been there
      }
    }
    throw unavailable(`The directory of the domain cannot be reached: ${reason(failure)}`, { cause: failure })
  }

  async function search(base: string, filter: string): Promise<Entry[]> {
    const dn = typeof o.user === 'string' ? o.user : null
    try {
      return await connected(
        dn,
        String(o.password ?? ''),
        async client =>
          (await client.search(base, { scope, filter, paged: { pageSize: Number(o.page_size) || PAGE } })).searchEntries,
      )
    } catch (error) {
      if (await isRefusal(error)) throw unavailable('The directory of the domain refuses the configured user.', { cause: error })
      throw error
    }
  }

  function enabledOf(entry: Entry, emulated: Set<string> | null): boolean {
    if (emulated) return emulated.has(normal(entry.dn))
    const [value = String(o.user_enabled_default)] = texts(entry, o.user_enabled_attribute)
    const mask = Number(o.user_enabled_mask)
    // As in Active Directory, a set bit of userAccountControl disables.
    if (mask !== 0) return (Number(value) & mask) !== mask
    return truth(value) !== truth(o.user_enabled_invert)
  }

  async function emulation(): Promise<Set<string> | null> {
    if (!truth(o.user_enabled_emulation)) return null
    const dn = String(o.user_enabled_emulation_dn ?? `cn=enabled_users,${userBase}`)
    const entries = await connected(
      typeof o.user === 'string' ? o.user : null,
      String(o.password ?? ''),
      async client => (await client.search(dn, { scope: 'base' })).searchEntries,
    )
    return new Set(entries.flatMap(entry => texts(entry, o.group_member_attribute)).map(normal))
  }

  function userOf(entry: Entry, emulated: Set<string> | null): LdapUser[] {
    const [localId] = texts(entry, o.user_id_attribute)
    const [name] = texts(entry, o.user_name_attribute)
    if (localId === undefined || name === undefined) return []
    const [email] = texts(entry, o.user_mail_attribute)
    const [description] = texts(entry, o.user_description_attribute)
    return [
      {
        localId,
        dn: entry.dn,
        name,
        enabled: enabledOf(entry, emulated),
        ...(email !== undefined && { email }),
        ...(description !== undefined && { description }),
      },
    ]
  }

  async function usersWhere(condition?: string): Promise<LdapUser[]> {
    const emulated = await emulation()
    const entries = await search(userBase, whole(text('user_objectclass'), o.user_filter, condition))
    return entries.flatMap(entry => userOf(entry, emulated))
  }

  return {
    users: () => usersWhere(),
    async groups() {
      const entries = await search(groupBase, whole(text('group_objectclass'), o.group_filter))
      return entries.flatMap(entry => {
        const [localId] = texts(entry, o.group_id_attribute)
        const [name] = texts(entry, o.group_name_attribute)
        if (localId === undefined || name === undefined) return []
        const [description = ''] = texts(entry, o.group_desc_attribute)
        return [{ localId, dn: entry.dn, name, description, members: texts(entry, o.group_member_attribute) }]
      })
    },
    async find(by) {
      const [attribute, value] = 'name' in by ? [text('user_name_attribute'), by.name] : [text('user_id_attribute'), by.localId]
      const found = await usersWhere(`(${attribute}=${escape(value)})`)
      return found.length === 1 ? found[0]! : null
    },
    async holds(dn, password) {
      // A bind without a password is an anonymous one, which most directories allow.
      if (password === '') return false
      try {
        return await connected(dn, password, async () => true)
      } catch (error) {
        if (await isRefusal(error)) return false
        throw error
      }
    },
    isMember: (group, user) =>
      truth(o.group_members_are_ids) ? group.members.includes(user.localId) : group.members.some(dn => sameDn(dn, user.dn)),
  }
}
