import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { contract } from './contract.ts'
import { keptLog } from './testing.ts'
import { agentEndpoint, webSocketWay } from './websocket.ts'

contract('websocket', async (t, hosts, host) => {
  const server = createServer()
  const endpoint = agentEndpoint({ hosts, authenticate: async claim => claim.secret === 's3cret', log: keptLog() })
  server.on('upgrade', endpoint.upgrade)
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.after(() => {
    server.close()
    server.closeAllConnections()
  })
  return webSocketWay(`ws://127.0.0.1:${(server.address() as AddressInfo).port}/agent`, { host, secret: 's3cret' })
})
