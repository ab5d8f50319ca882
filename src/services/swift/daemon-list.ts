/** The daemons of a host, in one list. */
import { accountReaper } from './account/reaper.ts'
import { containerSharder } from './container/sharder.ts'
import { containerSyncDaemon } from './container/sync.ts'
import { containerUpdater, containerUpdaterQuick } from './container/updater.ts'
import type { Daemon } from './daemons.ts'
import { dbAuditor } from './db/auditor.ts'
import { dbReplicator } from './db/replicator.ts'
import { objectReconstructor } from './ec/reconstructor.ts'
import { objectAuditor } from './object/auditor.ts'
import { objectExpirer } from './object/expirer.ts'
import { objectRelinker } from './object/relinker.ts'
import { objectReplicator } from './object/replicator.ts'
import { objectUpdater } from './object/updater.ts'

/** With `quick` seconds between passes that users notice, `audit` between those that read everything. */
export const allDaemons = ({
  quick,
  audit,
  fragmentGrace = 3600,
}: {
  quick: number
  audit: number
  fragmentGrace?: number
}): Daemon[] => [
  containerUpdaterQuick(),
  containerUpdater(quick * 10),
  objectUpdater(quick),
  objectExpirer(quick),
  containerSyncDaemon(quick),
  containerSharder(quick),
  accountReaper(quick * 10),
  dbReplicator('account', quick),
  dbReplicator('container', quick),
  objectRelinker(quick),
  objectReplicator(quick),
  objectReconstructor(quick, fragmentGrace),
  dbAuditor('account', audit),
  dbAuditor('container', audit),
  objectAuditor({ every: audit, filesPerSecond: 200, bytesPerSecond: 50_000_000, quick: false }),
  objectAuditor({ every: audit, filesPerSecond: 500, bytesPerSecond: 50_000_000, quick: true }),
]
