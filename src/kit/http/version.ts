/**
 * Microversions: which version of an API a request asks for, as the API SIG's guideline has it (`OpenStack-API-Version: compute 2.19`)
 * beside the older header of each service. Inside, a version is its minor number alone: the major never changes.
 */
import type { IncomingHttpHeaders } from 'node:http'
import { badRequest, notAcceptable } from '../fault.ts'

export interface Microversions {
  /** The name in `OpenStack-API-Version`: `compute`. */
  readonly type: string
  /** An older header of this service that carries the number alone: `X-OpenStack-Nova-API-Version`. */
  readonly legacyHeader?: string
  readonly major: number
  readonly min: number
  readonly max: number
}

const text = (m: Microversions, minor: number): string => `${m.major}.${minor}`

/** The minor version that the request asks for; the minimum where it asks for none. Throws 400 for a malformed one, 406 for one out of range. */
export function negotiate(m: Microversions, headers: IncomingHttpHeaders): number {
  const asked = askedFor(m, headers)
  if (asked === undefined) return m.min
  if (asked === 'latest') return m.max
  const match = /^(\d+)\.(\d+)$/.exec(asked)
  if (!match) {
    throw badRequest(`API Version String ${asked} is of invalid format. Must be of format MajorNum.MinorNum.`)
  }
  const minor = Number(match[2])
  if (Number(match[1]) !== m.major || minor < m.min || minor > m.max) {
    throw notAcceptable(
      `Version ${asked} is not supported by the API. Minimum is ${text(m, m.min)} and maximum is ${text(m, m.max)}.`,
      { extra: { max_version: text(m, m.max), min_version: text(m, m.min) } },
    )
  }
  return minor
}

function askedFor(m: Microversions, headers: IncomingHttpHeaders): string | undefined {
  const standard = headers['openstack-api-version']
  if (typeof standard === 'string') {
    for (const part of standard.split(',')) {
      const [type, version] = part.trim().split(/\s+/)
      if (type?.toLowerCase() === m.type && version) return version
    }
  }
  if (!m.legacyHeader) return undefined
  const legacy = headers[m.legacyHeader.toLowerCase()]
  return typeof legacy === 'string' ? legacy.trim() : undefined
}

/** The headers that echo the version of an answer. */
export function versionHeaders(m: Microversions, minor: number): Record<string, string> {
  const value = text(m, minor)
  return m.legacyHeader
    ? {
        'OpenStack-API-Version': `${m.type} ${value}`,
        [m.legacyHeader]: value,
        Vary: `OpenStack-API-Version, ${m.legacyHeader}`,
      }
    : { 'OpenStack-API-Version': `${m.type} ${value}`, Vary: 'OpenStack-API-Version' }
}
