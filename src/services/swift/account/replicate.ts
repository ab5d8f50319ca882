/** What account servers ask of each other. */
import type { DbSite } from '../db/path.ts'
import { receive } from '../db/replicator.ts'
import type { Req, Res } from '../http/message.ts'

/** Takes in rows and facts of a replica. */
export const replicateAccount = (site: DbSite, req: Req): Promise<Res> => receive(site, 'account', req)
