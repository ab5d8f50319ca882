/** String formats that request schemas may name, as OpenStack's validators understand them. Pure predicates. */
import { isIP, isIPv4, isIPv6 } from 'node:net'
import type { Ajv } from 'ajv'

const UUID = /^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$/i
const MAC = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i
const DATE_TIME = /^\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:Z|[+-]\d{2}:?\d{2})?)?$/i

/** True for an address with a prefix length that fits its family. */
export function isCidr(text: string): boolean {
  const [address, prefix, ...rest] = text.split('/')
  if (rest.length > 0 || !address || !prefix || !/^\d{1,3}$/.test(prefix)) return false
  return isIPv4(address) ? Number(prefix) <= 32 : isIPv6(address) && Number(prefix) <= 128
}

export const isUuid = (text: string): boolean => UUID.test(text)
export const isMac = (text: string): boolean => MAC.test(text)

const base64 = (text: string): boolean => text.length % 4 === 0 && /^[A-Za-z0-9+/\r\n]*={0,2}[\r\n]*$/.test(text)
const dateTime = (text: string): boolean => DATE_TIME.test(text) && !Number.isNaN(Date.parse(text.replace(' ', 'T')))

function uri(text: string): boolean {
  return URL.canParse(text)
}

function isRegex(text: string): boolean {
  try {
    return new RegExp(text, 'u') !== undefined
  } catch (error) {
    if (error instanceof SyntaxError) return false
    throw error
  }
}

const FORMATS: Record<string, (text: string) => boolean> = {
  uuid: isUuid,
  mac: isMac,
  cidr: isCidr,
  ip: text => isIP(text) !== 0,
  ipv4: isIPv4,
  ipv6: isIPv6,
  'date-time': dateTime,
  base64,
  uri,
  regex: isRegex,
}

/** Teaches an Ajv these formats; returns it. */
export function addFormats(ajv: Ajv): Ajv {
  for (const [name, test] of Object.entries(FORMATS)) ajv.addFormat(name, { type: 'string', validate: test })
  return ajv
}
