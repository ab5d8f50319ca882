// The package has no types of its own: what our tests use of it.
declare module 'oidc-provider' {
  import type { IncomingMessage, ServerResponse } from 'node:http'

  export interface Grant {
    addOIDCScope(scope: string): void
    save(): Promise<string>
  }
  export interface Context {
    oidc: { params: Record<string, string>; client: unknown }
    body: unknown
  }
  export default class Provider {
    constructor(issuer: string, configuration: object)
    callback(): (req: IncomingMessage, res: ServerResponse) => void
    registerGrantType(name: string, handler: (ctx: Context) => Promise<void>, parameters: string[]): void
    Grant: new (of: {
      clientId: string
      accountId: string
    }) => Grant
    AccessToken: new (
      of: object,
    ) => { save(): Promise<string> }
  }
}
