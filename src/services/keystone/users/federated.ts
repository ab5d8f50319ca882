import type { Query, Tx } from '#kit/db/index.ts'
import { badRequest } from '#kit/fault.ts'

/** How a request links a user to identity providers. */
export interface FederatedLink {
  idp_id: string
  protocols: { protocol_id: string; unique_id: string }[]
}

/** Refuses links to providers or protocols that do not exist. */
export async function federatedCheck(db: Query, links: FederatedLink[]): Promise<void> {
  for (const { idp_id, protocols } of links) {
    if (typeof idp_id !== 'string' || !Array.isArray(protocols))
      throw badRequest('Each federated entry needs idp_id and protocols.')
    for (const { protocol_id, unique_id } of protocols) {
      if (typeof protocol_id !== 'string' || typeof unique_id !== 'string')
        throw badRequest('Each protocol needs protocol_id and unique_id.')
      const known = await db
        .selectFrom('keystone.protocols')
        .select('id')
        .where('idp_id', '=', idp_id)
        .where('id', '=', protocol_id)
        .executeTakeFirst()
      if (!known) throw badRequest(`Could not find federated protocol ${protocol_id} for identity provider: ${idp_id}.`)
    }
  }
}

/** Makes these the user's links. */
export async function federatedStore(tx: Tx, userId: string, links: FederatedLink[]): Promise<void> {
  await tx.deleteFrom('keystone.federated').where('user_id', '=', userId).execute()
  const rows = links.flatMap(({ idp_id, protocols }) =>
    protocols.map(({ protocol_id, unique_id }) => ({ user_id: userId, idp_id, protocol_id, unique_id, display_name: null })),
  )
  if (rows.length > 0) await tx.insertInto('keystone.federated').values(rows).execute()
}
