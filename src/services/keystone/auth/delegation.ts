import { forbidden } from '#kit/fault.ts'
import type { Call } from '#kit/http/route.ts'

/** What the caller's token says of itself beyond who and where. */
export interface CallerToken {
  methods?: string[]
  audit_ids?: string[]
  app_cred_id?: string
  restricted?: boolean
  access_token_id?: string
  idp_id?: string
  protocol_id?: string
  group_ids?: string[]
}

export const tokenOf = (call: Pick<Call, 'ctx'>): CallerToken => (call.ctx.who.extra?.token as CallerToken | undefined) ?? {}

/** The trust that the caller's token was issued under. */
export const trustOf = (call: Pick<Call, 'ctx'>): string | null =>
  (call.ctx.who.extra?.trust_id as string | null | undefined) ?? null

/** Whether the token was delegated by a trust or by OAuth 1: it must not make anything that outlives it. */
export const isDelegated = (call: Pick<Call, 'ctx'>): boolean =>
  trustOf(call) !== null || tokenOf(call).access_token_id !== undefined

/** Throws forbidden with `message` for a token that a trust or OAuth 1 gave. */
export function delegationForbid(call: Pick<Call, 'ctx'>, message: string): void {
  if (isDelegated(call)) throw forbidden(message)
}

/** Throws forbidden with `message` for any token that is not the user's own: application credentials too. */
export function delegatedForbid(call: Pick<Call, 'ctx'>, message: string): void {
  if (isDelegated(call) || tokenOf(call).app_cred_id !== undefined) throw forbidden(message)
}

/** Whether a token was given for a signed EC2 or S3 request. That method has no bit in Fernet tokens: there it is the absence of all. */
export const isSigned = (methods: readonly string[]): boolean => methods.length === 0 || methods.includes('ec2credential')
