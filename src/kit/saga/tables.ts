/** The journal of sagas. A row lives as long as its saga: what is in the table is in progress. */
import { type Generated, type Migration, sql } from '../db/index.ts'
import type { SagaFailure } from './index.ts'

/** One step that was begun. `undone` steps stay listed, so that an undo that was interrupted goes on where it was. */
export interface JournalEntry {
  step: string
  state: 'begun' | 'done' | 'undone'
  result?: unknown
}

interface SagasTable {
  id: string
  name: string
  resource: string
  args: object
  /** running, undoing, or queued behind the running one of its resource. */
  state: string
  journal: Generated<JournalEntry[]>
  failure: SagaFailure | null
  cancel: Generated<boolean>
  step: string | null
  step_since: Date | null
  step_deadline: Date | null
  attempts: Generated<number>
  last_error: string | null
  owner: string | null
  lease_until: Date | null
  fence: Generated<number>
  created_at: Generated<Date>
}

declare module '../db/index.ts' {
  interface Tables {
    'kit.sagas': SagasTable
  }
}

export const sagaMigrations: Migration[] = [
  {
    name: '0100_sagas',
    async up(tx) {
      await sql`
        create table kit.sagas (
          id text primary key,
          name text not null,
          resource text not null,
          args jsonb not null,
          state text not null,
          journal jsonb not null default '[]',
          failure jsonb,
          cancel boolean not null default false,
          step text,
          step_since timestamptz(3),
          step_deadline timestamptz(3),
          attempts integer not null default 0,
          last_error text,
          owner text,
          lease_until timestamptz(3),
          fence integer not null default 0,
          created_at timestamptz(3) not null default now()
        ) with (fillfactor = 50)`.execute(tx)
      await sql`create unique index sagas_running on kit.sagas (resource) where state <> 'queued'`.execute(tx)
      await sql`create unique index sagas_queued on kit.sagas (resource) where state = 'queued'`.execute(tx)
    },
    async down(tx) {
      await sql`drop table kit.sagas`.execute(tx)
    },
  },
]
