/** What hosts are given to answer their guests' metadata requests from. */
import { notFound } from '#kit/fault.ts'
import { type Serving, serve } from '#kit/link/index.ts'
import type { Env } from '#kit/service.ts'
import { serverMetadata } from '../verbs.ts'
import { ec2Data, openstackTree } from './files.ts'

/** Only the host that has the server is told. */
export const metadataServed = serve(serverMetadata, async ({ id }, { env, host }: Serving<Env>) => {
  const server = await env.db.read
    .selectFrom('nova.servers')
    .selectAll()
    .where('id', '=', id)
    .where('host', '=', host)
    .executeTakeFirst()
  if (!server) throw notFound(`Server ${id} is not on host ${host}.`)
  const files: Record<string, string> = {}
  for (const [path, content] of openstackTree(server, '')) files[path] = content.toString('base64')
  return { files, ec2: ec2Data(server, ''), userData: server.user_data }
})
