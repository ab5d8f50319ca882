import { createHmac, randomUUID } from 'node:crypto'
import type { Tx } from '#kit/db/index.ts'
import { emit, event } from '#kit/events.ts'
import { Fault } from '#kit/fault.ts'
import type { Call } from '#kit/http/route.ts'
import type { Env } from '#kit/service.ts'
import { identityOf } from '../identity.ts'

/** A notification for those who audit, in the form of a CADF event (DMTF DSP0262). */
export const audited = event<{ event_type: string; payload: Record<string, unknown> }>('keystone.audit')

interface Happened {
  action: string
  outcome: 'success' | 'failure' | 'pending'
  userId?: string
  user?: { user?: { id?: string; name?: string; password?: string } }
  error?: unknown
}

/** Writes a CADF event of an authentication, unless its kind is opted out. */
export async function audit(env: Env, call: Call, happened: Happened): Promise<void> {
  const { settings } = identityOf(env)
  const pending = happened.error instanceof Fault && happened.error.details.type === 'receipt'
  const outcome = pending ? 'pending' : happened.outcome
  const type = `identity.${happened.action}`
  if (settings.notification_opt_out.includes(`${type}.${outcome}`) || settings.notification_opt_out.includes(type)) return
  const payload = {
    typeURI: 'http://schemas.dmtf.org/cloud/audit/1.0/event',
    eventType: 'activity',
    id: randomUUID(),
    eventTime: new Date().toISOString(),
    action: happened.action,
    outcome,
    initiator: {
      typeURI: 'service/security/account/user',
      id: happened.userId ?? happened.user?.user?.id ?? randomUUID(),
      user_id: happened.userId ?? happened.user?.user?.id,
      username: happened.user?.user?.name,
      request_id: call.ctx.requestId,
      host: {
        address:
          call.stream instanceof Object && 'socket' in call.stream
            ? String((call.stream as { socket?: { remoteAddress?: string } }).socket?.remoteAddress ?? '')
            : '',
        agent: String(call.headers['user-agent'] ?? ''),
      },
    },
    target: { id: randomUUID(), typeURI: 'service/security/account/user' },
    observer: { id: 'keystone', typeURI: 'service/security' },
    ...(outcome === 'failure' && guessed(env, happened.user?.user?.password)),
  }
  await env.db.tx(tx => emit(tx, audited, { event_type: type, payload }))
}

/** Keystone's salt for passwords that are kept in the database: the same guess has the same hash here and there. */
const SALT = 'keystone.identity.backends.sql.Identity'

/**
 * Where it is configured, a part of a keyed hash of the wrong password: whoever watches can tell one program with an old password (always
 * the same) from somebody who tries many, and learns no password.
 */
function guessed(env: Env, password: unknown): object {
  const {
    report_invalid_password_hash: where,
    invalid_password_hash_secret_key: key,
    invalid_password_hash_function: digest,
    invalid_password_hash_max_chars: most,
  } = identityOf(env).settings.security_compliance
  if (typeof password !== 'string' || key === undefined || !where.includes('event')) return {}
  const salted = createHmac(digest, SALT).update(password).digest()
  const content = createHmac(digest, key).update(salted).digest('base64').replace(/=+$/, '').slice(0, most)
  return { attachments: [{ typeURI: 'mime:text/plain', name: 'partial_password_hash', content }] }
}

const ACCOUNTS: Record<string, string> = {
  user: 'data/security/account/user',
  group: 'data/security/group',
  project: 'data/security/project',
  domain: 'data/security/domain',
  role: 'data/security/role',
  credential: 'data/security/credential',
}

/** Tells that a resource was made, changed or deleted, in the transaction that did it. */
export async function auditResource(
  tx: Tx,
  call: Call,
  action: 'created' | 'updated' | 'deleted',
  resource: string,
  id: string,
): Promise<void> {
  const { settings } = identityOf(call.env)
  const type = `identity.${resource}.${action}`
  if (settings.notification_opt_out.includes(type)) return
  const basic = { resource_info: id }
  const typeURI = ACCOUNTS[resource] ?? 'data/security'
  const cadf = {
    typeURI: 'http://schemas.dmtf.org/cloud/audit/1.0/event',
    eventType: 'activity',
    id: randomUUID(),
    eventTime: new Date().toISOString(),
    action: `${action}.${resource}`,
    outcome: 'success',
    initiator: {
      typeURI: 'service/security/account/user',
      id: call.ctx.userId,
      user_id: call.ctx.userId,
      project_id: call.ctx.projectId,
      domain_id: call.ctx.domainId,
      request_id: call.ctx.requestId,
    },
    target: { id, typeURI },
    observer: { id: 'keystone', typeURI: 'service/security' },
    ...basic,
  }
  await emit(tx, audited, { event_type: type, payload: settings.notification_format === 'basic' ? basic : cadf })
}
