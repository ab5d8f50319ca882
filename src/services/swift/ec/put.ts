/** PUT of an erasure-coded object. */
import type { Headers, Req, Res } from '../http/message.ts'
import { refuse } from '../http/message.ts'
import type { Cluster } from '../proxy/cluster.ts'
import type { ObjectAt } from '../proxy/object.ts'

/** Codes the body into fragments and stores each on its device. */
export async function ecPut(_cluster: Cluster, _req: Req, _at: ObjectAt, _headers: Headers, _extra: Headers[]): Promise<Res> {
  return refuse(503)
}
