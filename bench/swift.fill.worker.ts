/** Enters rows of objects into a container's database, as the store itself does. */
import { workerData } from 'node:worker_threads'
import { fillContainer } from '#services/swift/index.ts'

const { dir, account, container, count } = workerData as { dir: string; account: string; container: string; count: number }
await fillContainer(dir, account, container, count)
