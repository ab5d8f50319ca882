/**
 * What nova asks of the services to its left, in one place and in nova's words. Each function is a few lines over their index.ts.
 */
import type { Query } from '#kit/db/index.ts'

/** Throws badRequest when Keystone knows no such project. */
export async function projectKnown(_db: Query, _projectId: string): Promise<void> {}
