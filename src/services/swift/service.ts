/** What the object store has. Its requests are not JSON, so it has no routes: `raw` hands them to its own pipeline (`proxy/pipeline.ts`). */
import type { Service } from '#kit/service.ts'
import { swiftSettings } from './config.ts'
import { start, storeIn } from './embed.ts'
import { serve } from './http/serve.ts'
import { wire } from './wire.ts'

export const PREFIX = '/object-store'

export const swift: Service = {
  name: 'swift',
  type: 'object-store',
  prefix: PREFIX,
  mounts: [''],
  wire,
  routes: [],
  policies: [],
  migrations: [],
  settings: swiftSettings,
  start,
  raw(env, req, res) {
    const store = storeIn(env)
    if (store) void serve(store.app, req, res, { mount: PREFIX, log: env.log })
    else res.writeHead(503, { 'content-length': '0' }).end()
  },
}
