import { existsSync } from 'node:fs'
import { sql } from '#kit/db/index.ts'
import { unavailable } from '#kit/fault.ts'
import { bytes, route } from '#kit/http/route.ts'
import { identityOf } from './identity.ts'

/** Whether this server should be asked: 503 when the operator has taken it out by a file, or the database does not answer. */
export const healthRoute = route({
  method: 'GET',
  path: '/healthcheck',
  mounts: [''],
  policy: null,
  auth: 'none',
  async handle(call) {
    const file = identityOf(call.env).settings.healthcheck.disable_by_file_path
    if (file !== undefined && existsSync(file)) throw unavailable('DISABLED BY FILE')
    await sql`select 1`.execute(call.db)
    const accept = String(call.headers.accept ?? '')
    if (accept.includes('json')) return { name: 'keystone', detailed: false, reasons: ['OK'] }
    return bytes('OK', { type: 'text/plain; charset=UTF-8' })
  },
})
