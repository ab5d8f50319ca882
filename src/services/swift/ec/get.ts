/** GET of an erasure-coded object. */
import type { Headers, Req, Res } from '../http/message.ts'
import { refuse } from '../http/message.ts'
import type { Cluster } from '../proxy/cluster.ts'
import type { ObjectAt } from '../proxy/object.ts'

/** Gathers enough fragments and decodes them. */
export async function ecGet(_cluster: Cluster, _req: Req, _at: ObjectAt, _headers: Headers): Promise<Res> {
  return refuse(503)
}
