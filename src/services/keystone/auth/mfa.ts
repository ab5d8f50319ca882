import { decode } from '@msgpack/msgpack'
import { unauthorized } from '#kit/fault.ts'
import type { Env } from '#kit/service.ts'
import { identityOf } from '../identity.ts'
import type { UserFact } from '../tokens/facts.ts'
import { fernetOpen, fernetSeal } from '../tokens/fernet.ts'
import { payloadPack, payloadUnpack } from '../tokens/payload.ts'
import { isoSeconds } from '../wire.ts'

// Users can be bound to combinations of methods ("password and totp"). A login that has proven only some gets a receipt for
// those, good for a few minutes, and comes again with the receipt and the rest.

/** Methods already proven in this login. */
export interface Receipt {
  userId: string
  methods: string[]
}

/** The rules of a user that can be met here: those with no configured method at all are as good as absent. */
function rulesOf(user: UserFact, configured: string[]): string[][] {
  const { multi_factor_auth_enabled: enabled, multi_factor_auth_rules: rules } = user.options
  if (enabled === false || !Array.isArray(rules)) return []
  return rules.map((rule: string[]) => rule.filter(method => configured.includes(method))).filter(rule => rule.length > 0)
}

/** Throws the 401 that carries a receipt when no rule of the user is met by `methods`. */
export function mfaCheck(env: Env, user: UserFact, methods: string[]): void {
  const { settings } = identityOf(env)
  const rules = rulesOf(user, settings.auth.methods)
  if (rules.length === 0 || rules.some(rule => rule.every(method => methods.includes(method)))) return
  const issued = Math.floor(Date.now() / 1000)
  const expires = issued + settings.receipt.expiration
  throw unauthorized('More methods of authentication are required.', {
    type: 'receipt',
    headers: { 'Openstack-Auth-Receipt': receiptSeal(env, { userId: user.id, methods }, issued, expires) },
    extra: {
      receipt: {
        methods,
        user: { id: user.id, name: user.name, domain: { id: user.domain.id, name: user.domain.name } },
        expires_at: isoSeconds(expires),
        issued_at: isoSeconds(issued),
      },
      required_auth_methods: rules,
    },
  })
}

// A receipt's payload is that of an unscoped token without version and audit ids: [user, methods, expiry].

function receiptSeal(env: Env, { userId, methods }: Receipt, issued: number, expires: number): string {
  const { receipts, settings } = identityOf(env)
  const whole = payloadPack({ userId, methods, issued, expires, auditIds: [] }, settings.auth.methods)
  return fernetSeal(receipts.keys(), Buffer.concat([Buffer.of(0x93), whole.subarray(2, -1)]), issued)
}

/** Reads a receipt; throws unauthorized when it is not ours or has expired. */
export function receiptOpen(env: Env, text: string): Receipt {
  const { receipts, settings } = identityOf(env)
  const opened = fernetOpen(receipts.keys(), text)
  const fields = opened && (decode(opened.plain, { rawStrings: true }) as unknown[])
  if (opened && Array.isArray(fields) && fields.length === 3) {
    const whole = Buffer.concat([Buffer.of(0x95, 0x00), opened.plain.subarray(1), Buffer.of(0x90)])
    const claims = payloadUnpack(whole, opened.issued, settings.auth.methods)
    if (claims && claims.expires > Date.now() / 1000) return { userId: claims.userId, methods: claims.methods }
  }
  throw unauthorized('Could not find auth receipt.')
}
