import type { Finished } from './reporter.ts'

/** A piece of the test run: a group of test files in one process, a check of the source, a black-box script. */
export interface Job {
  name: string
  /** Runs with nothing beside it: it boots guests or measures. */
  alone: boolean
  run(signal: AbortSignal): Promise<Finished[]>
}

/** The outcome of a job that is one test in itself. */
export function single(job: string, began: number, outcome: Finished['outcome'], why?: string): Finished[] {
  return [{ name: job, file: '', outcome, ms: performance.now() - began, why }]
}

/**
 * Runs jobs, `width` at a time in their order, then those that want to be alone, one by one.
 * @param ended is called as each job ends
 */
export async function runJobs(
  jobs: readonly Job[],
  width: number,
  signal: AbortSignal,
  ended: (job: Job, results: Finished[], ms: number) => void,
): Promise<void> {
  const again: Job[] = []
  const one = async (job: Job, last = false) => {
    const began = performance.now()
    const results = await job.run(signal)
    // What failed beside others is run once more by itself: what fails then is broken, what passes was short of time.
    if (!last && !job.alone && !signal.aborted && results.some(result => result.outcome === 'failed')) {
      const failed = results.filter(result => result.outcome === 'failed')
      for (const { name, why } of failed) console.log(`     ${job.name}: ${name}${why ? `: ${why}` : ''}`)
      console.log(`FAIL ${job.name}: once more, alone, at the end`)
      again.push(job)
    } else ended(job, results, performance.now() - began)
  }
  const queue = jobs.filter(job => !job.alone)
  const worker = async () => {
    for (let job = queue.shift(); job !== undefined && !signal.aborted; job = queue.shift()) await one(job)
  }
  await Promise.all(Array.from({ length: width }, worker))
  for (const job of again) await one(job, true)
  for (const job of jobs.filter(job => job.alone)) {
    if (signal.aborted) return
    await one(job)
  }
}
