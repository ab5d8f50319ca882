/** POST /servers/ID/action: the route of one action. */
import { type Call, type Route, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { Anything } from '../fields.ts'
import { serverTarget } from '../servers/routes.ts'
import type { Server } from '../servers/store.ts'

export interface ActionSpec<V extends S.TSchema> {
  /** The body's one key. */
  key: string
  policy: string
  value?: V
  since?: number
  until?: number
  /** 202 unless given. */
  success?: number
  handle(call: Call<unknown, unknown, Server>, value: S.Static<V>): Promise<unknown>
}

/** An action on a server. Its value may be anything unless `value` says otherwise. */
export function action<V extends S.TSchema>(spec: ActionSpec<V>): Route {
  const { key, policy, since, until, success = 202 } = spec
  return route({
    method: 'POST',
    path: '/servers/:id/action',
    action: key,
    policy,
    since,
    until,
    success,
    body: S.Object({ [key]: (spec.value ?? Anything()) as S.TSchema }, { additionalProperties: false }),
    target: serverTarget,
    handle: call =>
      spec.handle(call as Call<unknown, unknown, Server>, (call.body as Record<string, unknown>)[key] as S.Static<V>),
  })
}
