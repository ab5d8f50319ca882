import type { Migration } from '#kit/db/index.ts'
import { base } from './0001_base.ts'

/** In order. */
export const migrations: Migration[] = [base]
