/** `nubo status` in words. Pure. */
import type { Gathered } from './gather.ts'

export interface Status extends Gathered {
  /** The instance on this data folder; null when none runs. */
  instance: { url: string; pid: number; simulated: number; why: string | null } | null
  /** Services of the program and the paths of their APIs. */
  services: { name: string; type: string; path: string }[]
}

/** `3 s`, `5 min`, `2 h 10 min`, `3 d 4 h`: a length of time at a glance. */
export function span(ms: number): string {
  const seconds = Math.max(0, Math.round(ms / 1000))
  if (seconds < 120) return `${seconds} s`
  const minutes = Math.floor(seconds / 60)
  if (minutes < 120) return `${minutes} min`
  const hours = Math.floor(minutes / 60)
  if (hours < 48) return minutes % 60 === 0 ? `${hours} h` : `${hours} h ${minutes % 60} min`
  return hours % 24 === 0 ? `${Math.floor(hours / 24)} d` : `${Math.floor(hours / 24)} d ${hours % 24} h`
}

/** What needs somebody's attention, a sentence each. */
export function troubles(status: Status, now: Date): string[] {
  const { instance, controllers, hosts, operations, failingTasks, events, unsettled } = status
  const found: string[] = []
  if (instance?.why) found.push(`the APIs at ${instance.url} do not answer: ${instance.why}`)
  if (!controllers.some(controller => controller.up)) found.push('no controller runs')
  for (const { name, up } of controllers) if (!up) found.push(`controller ${name} is gone`)
  const away = hosts.filter(host => !host.up)
  if (away.length > 0) found.push(`${away.length} of ${hosts.length} hosts ${away.length === 1 ? 'is' : 'are'} away`)
  const late = operations.filter(operation => operation.deadline !== null && operation.deadline < now)
  if (late.length > 0) found.push(`${late.length} operations are past the deadline of their step`)
  for (const { name } of failingTasks) found.push(`task ${name} fails`)
  for (const { name, error } of events) if (error !== null) found.push(`events ${name} cannot be delivered`)
  if (unsettled.length > 0) found.push(`${unsettled.length} resources wait longer than usual`)
  return found
}

/** Most lines of one list that people are shown. */
const MOST = 50

function some<T>(list: readonly T[], line: (item: T) => string[]): string[] {
  const lines = list.slice(0, MOST).flatMap(line)
  if (list.length > MOST) lines.push(`  … and ${list.length - MOST} more (--json shows all)`)
  return lines
}

/** The whole report as lines for people. */
export function report(status: Status, now: Date): string {
  const { instance, services, controllers, hosts, operations, failingTasks, events, unsettled } = status
  const ago = (at: Date): string => span(now.getTime() - at.getTime())
  const lines: string[] = []
  lines.push(
    instance
      ? `Nubo runs at ${instance.url} (process ${instance.pid}${instance.simulated > 0 ? `, ${instance.simulated} pretended hosts` : ''}).`
      : 'No instance runs on this data folder; this is what the database says.',
  )
  if (instance) lines.push(`APIs: ${services.map(service => service.name).join(', ')}: ${instance.why ?? 'they answer'}.`)

  lines.push('', 'Controllers')
  for (const { name, up, seenAt, address, operations: count } of controllers) {
    const works = count > 0 ? `, works on ${count} operations` : ''
    lines.push(`  ${name}  ${up ? 'up' : `GONE, last seen ${ago(seenAt)} ago`}${address ? `, ${address}` : ''}${works}`)
  }
  if (controllers.length === 0) lines.push('  none')

  const up = hosts.filter(host => host.up).length
  lines.push('', `Hosts: ${up} of ${hosts.length} up`)
  // Those that are away first; of those that are well a few are enough.
  const order = [...hosts].sort((a, b) => Number(a.up) - Number(b.up))
  lines.push(
    ...some(order, ({ name, up, since, lastSeenAt, connectedTo }) => [
      up
        ? `  ${name}  up for ${since ? ago(since) : '?'}, at ${connectedTo.join(', ')}`
        : `  ${name}  AWAY, ${lastSeenAt ? `last seen ${ago(lastSeenAt)} ago` : 'never seen'}`,
    ]),
  )

  lines.push('', `Operations in progress: ${operations.length}`)
  lines.push(
    ...some(operations, ({ resource, name, state, step, since, deadline, attempts, error, owner, began }) => {
      const what = state === 'running' ? '' : ` (${state})`
      const where = step === null ? 'not begun' : `step ${step} for ${ago(since ?? began)}`
      const until =
        deadline === null
          ? ''
          : deadline < now
            ? `, deadline passed ${ago(deadline)} ago`
            : `, ${span(deadline.getTime() - now.getTime())} left`
      const tries = attempts > 1 ? `, try ${attempts}` : ''
      return [
        `  ${resource}  ${name}${what}: ${where}${until}${tries}${owner ? `, by ${owner}` : ', by nobody'}; began ${ago(began)} ago`,
        ...(error === null ? [] : [`      last error: ${error}`]),
      ]
    }),
  )
  if (failingTasks.length > 0) {
    lines.push('', 'Failing tasks')
    for (const { name, ranAt, error } of failingTasks) lines.push(`  ${name}  ${ago(ranAt)} ago: ${error}`)
  }
  if (events.length > 0) {
    lines.push('', 'Events not delivered yet')
    for (const { name, count, oldest, error } of events) {
      lines.push(`  ${name}  ${count}, the oldest for ${ago(oldest)}${error === null ? '' : `: ${error}`}`)
    }
  }
  if (unsettled.length > 0) {
    lines.push('', 'Waiting longer than usual')
    lines.push(
      ...some(unsettled, ({ service, what, id, state, since, why }) => [
        `  ${service} ${what} ${id}  ${state} for ${ago(since)}${why === null ? '' : `: ${why}`}`,
      ]),
    )
  }
  const wrong = troubles(status, now)
  lines.push('', wrong.length === 0 ? 'All is well.' : `Look at: ${wrong.join('; ')}.`)
  return `${lines.join('\n')}\n`
}
