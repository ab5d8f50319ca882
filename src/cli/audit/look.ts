/**
 * One look at everything that must agree. Rows are read at one moment; hosts and files at about that moment: while operations go on a look
 * may see one side before and the other after a change. So what differs is looked at again, and counts only if it differs in the same way
 * every time.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { Finding } from '#kit/audit.ts'
import type { Config } from '#kit/config.ts'
import { type Db, sql } from '#kit/db/index.ts'
import { type Answers, inquire } from '#kit/link/index.ts'
import type { Service } from '#kit/service.ts'

export interface Looking {
  db: Db
  config: Config
  services: readonly Service[]
  /** Whether the controllers' files are on this machine. */
  files: boolean
  /** Longest wait for the hosts' answers, in ms. */
  patience: number
  /** How often what differs is looked at again, and the pause before, in ms. */
  again?: { times: number; pause: number }
}

export interface Looked {
  findings: Finding[]
  /** Hosts that are connected but did not tell: what is on them was not looked at. */
  silent: Answers['silent']
  /** Hosts that are not connected. */
  away: string[]
  hosts: number
}

const AGAIN = { times: 3, pause: 2000 }

/** Looks until nothing differs, or what differs has stayed. */
export async function look(options: Looking): Promise<Looked> {
  const { times, pause } = options.again ?? AGAIN
  let looked = await lookOnce(options)
  for (let i = 1; i < times && looked.findings.length > 0; i++) {
    await delay(pause)
    const next = await lookOnce(options)
    const still = new Set(next.findings.map(keyOf))
    looked = { ...next, findings: looked.findings.filter(finding => still.has(keyOf(finding))) }
  }
  return looked
}

const keyOf = ({ service, what, id, why }: Finding): string => JSON.stringify([service, what, id, why])

async function lookOnce({ db, config, services, files, patience }: Looking): Promise<Looked> {
  const verbs = services.flatMap(service => service.audit?.inventory ?? [])
  const { answers, silent } = await inquire(db, verbs, patience)
  return db.tx(async tx => {
    await sql`set transaction isolation level repeatable read, read only`.execute(tx)
    const away = await tx.selectFrom('kit.host_states').select('name').where('up', '=', false).orderBy('name').execute()
    const findings: Finding[] = await ownFindings(tx, services)
    for (const { name, audit } of services) {
      const hosts = (audit?.inventory && answers.get(audit.inventory.name)) ?? new Map<string, unknown>()
      const found = (await audit?.findings({ db: tx, config, files, hosts })) ?? []
      findings.push(...found.map(finding => ({ service: name, ...finding })))
    }
    const told = new Set([...answers.values()].flatMap(byHost => [...byHost.keys()]))
    return { findings, silent, away: away.map(host => host.name), hosts: told.size }
  })
}

/** Operations that nobody can go on with, and hosts' links of controllers that are gone. */
async function ownFindings(db: Parameters<Parameters<Db['tx']>[0]>[0], services: readonly Service[]): Promise<Finding[]> {
  const known = services.flatMap(service => (service.sagas ?? []).map(saga => saga.name))
  const { rows } = await sql<{ id: string; name: string; resource: string; why: string }>`
    select id, name, resource, case when not name = any(${known}::text[]) then 'no service knows how to go on with ' || name
      else name || ' is queued behind nothing' end as why
    from kit.sagas s
    where not name = any(${known}::text[])
      or (state = 'queued' and not exists (select from kit.sagas r where r.resource = s.resource and r.state <> 'queued'))`.execute(
    db,
  )
  return rows.map(({ resource, why }) => ({ service: 'kit', what: 'operation', id: resource, why }))
}
