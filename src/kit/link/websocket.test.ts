import { once } from 'node:events'
import { createServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { caCreate, certIssue } from '../tls.ts'
import { contract } from './contract.ts'
import { keptLog } from './testing.ts'
import { agentEndpoint, webSocketWay } from './websocket.ts'

const ca = caCreate('Nubo test')
const tls = certIssue(ca, ['127.0.0.1'])

contract('websocket over TLS', async (t, hosts, host) => {
  const server = createServer(tls)
  const endpoint = agentEndpoint({ hosts, authenticate: async claim => claim.secret === 's3cret', log: keptLog() })
  server.on('upgrade', endpoint.upgrade)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.close()
    server.closeAllConnections()
  })
  const address = `wss://127.0.0.1:${(server.address() as AddressInfo).port}/agent`
  return webSocketWay(address, { host, secret: 's3cret', ca: ca.cert })
})
