import type { TriedAnswer } from '#kit/http/tried.ts'
import type { Entry } from './cloud.ts'

/** What is wrong with an answer whatever was asked; empty if nothing is: no 5xx, the service's own envelope, request id and version. */
export function unsound({ service, tried }: Pick<Entry, 'service' | 'tried'>, answer: TriedAnswer, isHead = false): string[] {
  const { status, headers, body } = answer
  const wrong: string[] = []
  if (status >= 500 && status !== 501) wrong.push(`answered ${status}`)
  if (status >= 400 && !isHead && !tried.refusal(body, status))
    wrong.push(`no envelope of ${service.name}: ${JSON.stringify(body).slice(0, 200)}`)
  const ids = service.wire.requestIdHeaders ?? ['x-openstack-request-id']
  for (const name of ids) {
    if (!headers[name.toLowerCase()]) wrong.push(`no ${name}`)
  }
  const m = service.microversions
  if (m) {
    const version = headers['openstack-api-version']
    if (!String(version).startsWith(`${m.type} ${m.major}.`)) wrong.push(`OpenStack-API-Version is ${version}`)
    if (m.legacyHeader && !headers[m.legacyHeader.toLowerCase()]) wrong.push(`no ${m.legacyHeader}`)
    if (!String(headers.vary).includes('OpenStack-API-Version')) wrong.push(`Vary is ${headers.vary}`)
  }
  return wrong
}
