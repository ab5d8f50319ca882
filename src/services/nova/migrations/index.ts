import type { Migration } from '#kit/db/index.ts'
import { base } from './0001_base.ts'
import { noProjects } from './0002_no_projects.ts'

/** In order. */
export const migrations: Migration[] = [base, noProjects]
