/** Sharded containers: which shard a row belongs to, and the listing of shard ranges. Filled in by the sharder. */
import type { DbSite } from '../db/path.ts'
import { type Req, type Res, refuse } from '../http/message.ts'
import type { At } from './server.ts'

/** The 301 for a row whose place is in a shard; null when it belongs here. */
export async function redirect(_site: DbSite, _at: At, _object: string, _req: Req): Promise<Res | null> {
  return null
}

/** Shard ranges in place of objects where the request asks for them; null otherwise. */
export async function shardListing(_site: DbSite, _at: At, _req: Req): Promise<Res | null> {
  return null
}

/** Takes in shard ranges. */
export async function shardPut(_site: DbSite, _at: At, _req: Req, _time: string): Promise<Res> {
  return refuse(405)
}
