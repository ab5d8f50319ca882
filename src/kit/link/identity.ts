/** How a host proves to be itself, over any form but memory. */

/** Who asks to be taken for which host. */
export interface Claim {
  host: string
  secret: string
}

/** Resolves to whether the secret is this host's. Rejects when that cannot be told now (no database). */
export type Authenticate = (claim: Claim) => Promise<boolean>

/** Host names: as DNS has them, so that they can be file, namespace and row names too. */
export const HOST_NAME = /^[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,62}[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,62}[a-zA-Z0-9])?)*$/

/** Whether a claim has the shape that one can have at all. */
export function claimOf(value: unknown): Claim | null {
  const { host, secret } = (value ?? {}) as Record<string, unknown>
  if (typeof host !== 'string' || typeof secret !== 'string') return null
  return host.length <= 253 && HOST_NAME.test(host) && secret.length > 0 && secret.length <= 512 ? { host, secret } : null
}
