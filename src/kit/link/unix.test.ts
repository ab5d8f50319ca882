import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { contract } from './contract.ts'
import { keptLog } from './testing.ts'
import { unixListen, unixWay } from './unix.ts'

contract('unix', async (t, hosts, host) => {
  const folder = await mkdtemp(join(tmpdir(), 'nubo-link-'))
  const path = join(folder, 'agent.sock')
  const server = await unixListen({ path, hosts, authenticate: async claim => claim.secret === 's3cret', log: keptLog() })
  t.after(async () => {
    await server.close()
    await rm(folder, { recursive: true })
  })
  return unixWay(path, { host, secret: 's3cret' })
})
