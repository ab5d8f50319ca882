/**
 * Asking all hosts from a process that has the database and no host connected: a command of the operator. It writes its question and wakes the
 * controllers; each asks the hosts that are connected to it and writes their answers. Only verbs that a controller lists can be asked so.
 */
import { randomUUID } from 'node:crypto'
import { type Db, type Generated, json, type Migration, notify, sql } from '../db/index.ts'
import { reason } from '../fault.ts'
import type { Hosts } from './types.ts'
import type { LinkLog, Verb } from './verb.ts'

interface InquiriesTable {
  id: string
  verbs: string[]
  asked_at: Generated<Date>
}

interface InquiryAnswersTable {
  inquiry: string
  host: string
  verb: string
  answer: unknown
  error: string | null
}

declare module '../db/index.ts' {
  interface Tables {
    'kit.inquiries': InquiriesTable
    'kit.inquiry_answers': InquiryAnswersTable
  }
}

export const inquiryMigrations: Migration[] = [
  {
    name: '0500_inquiries',
    async up(tx) {
      await sql`
        create unlogged table kit.inquiries (
          id text primary key,
          verbs text[] not null,
          asked_at timestamptz(3) not null default now()
        )`.execute(tx)
      await sql`
        create unlogged table kit.inquiry_answers (
          inquiry text not null references kit.inquiries on delete cascade,
          host text not null,
          verb text not null,
          answer jsonb,
          error text,
          primary key (inquiry, host, verb)
        )`.execute(tx)
    },
    async down(tx) {
      await sql`drop table kit.inquiry_answers, kit.inquiries`.execute(tx)
    },
  },
]

type Askable = Verb<Record<string, never>, unknown>

const ASKED = 'kit_inquiry'
const ANSWERED = 'kit_inquiry_answered'
/** Hosts asked at once, and answers written together. */
const BATCH = 32
/** What a killed command left behind goes with the next one. */
const STALE = '1 hour'

/** A controller's side: asks its hosts what is inquired. Returns what stops it. */
export async function inquiriesAnswer(options: {
  db: Db
  hosts: Pick<Hosts, 'call' | 'connected'>
  verbs: readonly Askable[]
  log: LinkLog
}): Promise<() => void> {
  const { db, hosts, log } = options
  const byName = new Map(options.verbs.map(verb => [verb.name, verb]))
  const answer = async (inquiry: string): Promise<void> => {
    const row = await db.read.selectFrom('kit.inquiries').select('verbs').where('id', '=', inquiry).executeTakeFirst()
    const verbs = (row?.verbs ?? []).flatMap(name => byName.get(name) ?? [])
    const asks = hosts.connected().flatMap(host => verbs.map(verb => ({ host, verb })))
    while (asks.length > 0) {
      const answers = await Promise.all(
        asks.splice(0, BATCH).map(async ({ host, verb }) => {
          const about = { inquiry, host, verb: verb.name }
          return hosts.call(host, verb, {}).then(
            said => ({ ...about, answer: json(said), error: null }),
            (error: unknown) => ({ ...about, answer: null, error: reason(error) }),
          )
        }),
      )
      await db.tx(async tx => {
        // The one who asked may have gone, and its question with it.
        const still = await tx.selectFrom('kit.inquiries').select('id').where('id', '=', inquiry).forKeyShare().executeTakeFirst()
        if (!still) return
        await tx
          .insertInto('kit.inquiry_answers')
          .values(answers)
          .onConflict(on => on.doNothing())
          .execute()
        await notify(tx, ANSWERED, inquiry)
      })
    }
  }
  return db.listen(ASKED, inquiry => {
    answer(inquiry).catch(error => log.warn({ error: reason(error), inquiry }, 'an inquiry could not be answered'))
  })
}

/** What the hosts said: verb → host → answer; and which hosts did not tell what, and why. */
export interface Answers {
  answers: ReadonlyMap<string, ReadonlyMap<string, unknown>>
  silent: readonly { host: string; verb: string; why: string }[]
}

/** Asks these verbs of every host that is connected to a live controller. Resolves when all have answered, or `ms` have passed. */
export async function inquire(db: Db, verbs: readonly Askable[], ms: number): Promise<Answers> {
  const inquiry = randomUUID()
  let wake = (): void => {}
  const unlisten = await db.listen(ANSWERED, said => said === inquiry && wake())
  const deadline = performance.now() + ms
  try {
    await db.tx(async tx => {
      await sql`delete from kit.inquiries where asked_at < now() - ${sql.lit(STALE)}::interval`.execute(tx)
      await tx
        .insertInto('kit.inquiries')
        .values({ id: inquiry, verbs: verbs.map(verb => verb.name) })
        .execute()
      await notify(tx, ASKED, inquiry)
    })
    const up = await db.read.selectFrom('kit.host_states').select('name').where('up', '=', true).execute()
    for (;;) {
      const left = deadline - performance.now()
      const answered = new Promise<void>(resolve => {
        wake = resolve
      })
      const rows = await db.read.selectFrom('kit.inquiry_answers').selectAll().where('inquiry', '=', inquiry).execute()
      const told = new Set(rows.map(row => `${row.host} ${row.verb}`))
      const missing = up.flatMap(({ name: host }) =>
        verbs.flatMap(({ name: verb }) =>
          told.has(`${host} ${verb}`) ? [] : [{ host, verb, why: `no answer in ${ms / 1000} s` }],
        ),
      )
      if (missing.length === 0 || left <= 0) {
        const good = rows.filter(row => row.error === null)
        return {
          answers: new Map(
            verbs.map(({ name }) => [name, new Map(good.filter(r => r.verb === name).map(r => [r.host, r.answer]))]),
          ),
          silent: [...missing, ...rows.flatMap(({ host, verb, error }) => (error === null ? [] : [{ host, verb, why: error }]))],
        }
      }
      const timer = setTimeout(wake, Math.min(left, 2000))
      await answered
      clearTimeout(timer)
    }
  } finally {
    unlisten()
    await db.read.deleteFrom('kit.inquiries').where('id', '=', inquiry).execute()
  }
}
