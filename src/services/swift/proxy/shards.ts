/** Listings of sharded containers. */
import type { Req, Res } from '../http/message.ts'
import type { Cluster } from './cluster.ts'

/** Gathers the page from the shards. */
export async function listShards(_cluster: Cluster, _req: Req, _account: string, _container: string, res: Res): Promise<Res> {
  return res
}

/** The shard (`account/container`) whose database takes an object's row; null when the container is not sharded. */
export async function shardFor(_cluster: Cluster, _req: Req, _at: unknown): Promise<string | null> {
  return null
}
