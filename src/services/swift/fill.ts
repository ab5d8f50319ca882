/** For measurements: rows in a container's database of a store alone, without their objects. The store must not run meanwhile. */

import { join } from 'node:path'
import { dbDir } from './db/path.ts'
import { openDatabases } from './db/pool.ts'
import { hashName } from './hash.ts'
import { evenRing, partitionFor } from './ring/ring.ts'
import { deviceHere, keepSecrets } from './start.ts'
import { now } from './timestamp.ts'

const BATCH = 5000

/** Enters names `o0000000`, `o0000001`, … of 4 KiB each. */
export async function fillContainer(dataDir: string, account: string, container: string, count: number): Promise<void> {
  const secrets = await keepSecrets(dataDir)
  const ring = evenRing([deviceHere(0, 'd1')], 1, 10)
  const hash = hashName(secrets, account, container)
  const disk = { root: join(dataDir, 'devices'), device: 'd1' }
  const path = join(dbDir(disk, 'containers', partitionFor(ring, secrets, account, container), hash), `${hash}.db`)
  const databases = openDatabases(1)
  for (let at = 0; at < count; at += BATCH) {
    const time = now()
    const rows = Array.from({ length: Math.min(BATCH, count - at) }, (_, i) => ({
      name: `o${String(at + i).padStart(7, '0')}`,
      created_at: time,
      size: 4096,
      content_type: 'application/octet-stream',
      etag: '620f0b67a91f7f74151bc5be745b7110',
      deleted: 0,
      policy: 0,
      type_at: time,
      meta_at: time,
    }))
    if (!(await databases.call('container.rows', path, { rows, make: null }))) throw new Error(`there is no database ${path}`)
  }
  await databases.close()
}
