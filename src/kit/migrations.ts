/** The kit's own tables, schema `kit`, gathered from its parts: each adds its list here, in its own name space (`0100_saga…`). */
import type { MigrationSet } from './db/index.ts'
import { eventMigrations } from './events.ts'
import { inquiryMigrations } from './link/inquiry.ts'
import { linkMigrations } from './link/tables.ts'
import { sagaMigrations } from './saga/tables.ts'
import { taskMigrations } from './task.ts'

export const kitMigrations: MigrationSet = {
  schema: 'kit',
  migrations: [...sagaMigrations, ...eventMigrations, ...taskMigrations, ...linkMigrations, ...inquiryMigrations],
}
