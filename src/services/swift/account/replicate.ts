/** What account servers ask of each other. */
import type { DbSite } from '../db/path.ts'
import { type Req, type Res, refuse } from '../http/message.ts'

/** Takes in rows and facts of a replica. */
export async function replicateAccount(_site: DbSite, _req: Req): Promise<Res> {
  return refuse(405)
}
