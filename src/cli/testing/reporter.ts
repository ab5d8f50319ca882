/**
 * A reporter for node:test that writes one JSON line for each finished test, for `nubo test` to count and to show. The stream of events
 * is turned into lines as it comes, so that a process that dies leaves what it did until then.
 */
import type { TestEvent } from 'node:test/reporters'
import { inspect } from 'node:util'

/** One finished test. */
export interface Finished {
  name: string
  file: string
  outcome: 'passed' | 'failed' | 'skipped'
  ms: number
  /** Why it failed or was skipped. */
  why?: string
}

/** The test's own error without the runner's wrapping, with its diff and the stack of the test. */
function failure(error: unknown): string {
  const cause = error instanceof Error && 'code' in error && error.code === 'ERR_TEST_FAILURE' ? (error.cause ?? error) : error
  return inspect(cause, { depth: 6, colors: false })
}

export default async function* report(events: AsyncIterable<TestEvent>): AsyncGenerator<string> {
  const names: string[] = []
  for await (const event of events) {
    if (event.type === 'test:start') names[event.data.nesting] = event.data.name
    if (event.type !== 'test:pass' && event.type !== 'test:fail') continue
    const { data } = event
    const failed = event.type === 'test:fail' ? event.data.details.error : undefined
    // A suite only sums up its tests; it counts itself when it failed on its own account (a hook).
    if (data.details.type === 'suite' && (failed === undefined || /subtests? failed/.test(failed.message))) continue
    const skipped = data.skip !== undefined && data.skip !== false ? data.skip : data.todo
    const finished: Finished = {
      name: [...names.slice(0, data.nesting), data.name].join(' > '),
      file: data.file ?? '',
      outcome: skipped !== undefined && skipped !== false ? 'skipped' : failed === undefined ? 'passed' : 'failed',
      ms: data.details.duration_ms,
    }
    if (finished.outcome === 'skipped') finished.why = skipped === true ? '' : String(skipped)
    if (finished.outcome === 'failed') finished.why = failure(failed)
    yield `${JSON.stringify(finished)}\n`
  }
}
