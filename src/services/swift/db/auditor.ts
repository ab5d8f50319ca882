/** Compares each account's and container's database with its own sums; a damaged one goes to quarantine. Old tombstones go too. */
import { type Daemon, databasesHere } from '../daemons.ts'
import { ago } from '../timestamp.ts'
import { quarantineDb } from './path.ts'
import { DatabaseError } from './pool.ts'

/** The auditor of one kind of databases. */
export const dbAuditor = (kind: 'account' | 'container', every: number): Daemon => ({
  name: `${kind}-auditor`,
  every,
  async pass(premises, pass) {
    const site = premises.databases
    for await (const found of databasesHere(premises, `${kind}s`, pass)) {
      await pass.pace(200)
      pass.count('audited')
      let problem: string | null
      try {
        problem = await site.databases.call(kind === 'account' ? 'account.audit' : 'container.audit', found.path)
        if (!problem)
          await site.databases.call(kind === 'account' ? 'account.reclaim' : 'container.reclaim', found.path, {
            before: ago(site.reclaimAge),
          })
      } catch (error) {
        if (!(error instanceof DatabaseError) || !error.damaged) throw error
        problem = error.message
      }
      if (!problem) continue
      await quarantineDb(site, found.device, `${kind}s`, found.path, problem)
      pass.count('quarantined')
    }
  },
})
