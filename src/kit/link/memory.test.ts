import { contract } from './contract.ts'
import { memoryWay } from './memory.ts'

contract('memory', async (_, hosts, host) => memoryWay(hosts, host))
