/** What hosts are given to answer their guests' metadata requests from. */
import { notFound } from '#kit/fault.ts'
import { type Serving, serve } from '#kit/link/index.ts'
import type { Env } from '#kit/service.ts'
import { metadataServes } from '#services/neutron/index.ts'
import { serverMetadata } from '../verbs.ts'
import { ec2Data, openstackTree } from './files.ts'

/** Told are the host that has the server, and those that answer for its networks. */
export const metadataServed = serve(serverMetadata, async ({ id }, { env, host }: Serving<Env>) => {
  const server = await env.db.read.selectFrom('nova.servers').selectAll().where('id', '=', id).executeTakeFirst()
  if (!server || (server.host !== host && !(await metadataServes(env.db.read, host, id)))) {
    throw notFound(`Host ${host} answers for no server ${id}.`)
  }
  const files: Record<string, string> = {}
  for (const [path, content] of openstackTree(server, '')) files[path] = content.toString('base64')
  return { files, ec2: ec2Data(server, ''), userData: server.user_data }
})
