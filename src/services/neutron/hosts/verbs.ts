import { type Served, type Serving, serve } from '#kit/link/index.ts'
import type { Env } from '#kit/service.ts'
import { netDesired, netHello, netReport } from '../verbs.ts'
import { pokerOf } from './changed.ts'
import { desiredOf } from './desired.ts'
import { hostHello, hostReport } from './report.ts'

/** What network agents may ask. A host can ask only about itself: its name is the link's. */
export const hostVerbs: Served<Env>[] = [
  serve(netHello, async (facts, { env, host }: Serving<Env>) => {
    await hostHello(env, host, facts)
    return null
  }),
  serve(netDesired, async (_args, { env, host }: Serving<Env>) => {
    const began = performance.now()
    const desired = await desiredOf(env, host)
    pokerOf(env).took(performance.now() - began)
    return desired
  }),
  serve(netReport, async (report, { env, host }: Serving<Env>) => {
    await hostReport(env, host, report)
    return null
  }),
]
