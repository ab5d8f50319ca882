/** A metadata service as a guest sees OpenStack's, for tests: serves /openstack/latest/ from memory. */
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'

/** Files below /openstack/latest/ by name. */
export type MetadataFiles = Record<string, string>

/** Starts it on a free port of loopback. `asked` collects the paths that were requested. */
export async function metadataServe(files: MetadataFiles): Promise<{ port: number; asked: string[]; close(): void }> {
  const asked: string[] = []
  const server = createServer((request, response) => {
    asked.push(request.url ?? '')
    const body = files[(request.url ?? '').replace('/openstack/latest/', '')]
    response.writeHead(body === undefined ? 404 : 200, { 'content-type': 'text/plain', connection: 'close' })
    response.end(body ?? 'not found')
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return { port: (server.address() as AddressInfo).port, asked, close: () => server.close() }
}
