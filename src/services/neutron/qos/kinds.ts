// Kinds of QoS rules: what each says.
import { type Attribute, int, oneOf } from '../api/attributes.ts'

export const INT = 2147483647
/** The marks that a rule may set: RFC 2474's class selectors and those of RFC 2597 and 3246. */
export const DSCP = [0, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36, 38, 40, 46, 48, 56]
const WAYS = ['egress', 'ingress']

export interface Kind {
  type: string
  attributes: Record<string, Attribute>
  /** Ways a rule of this kind may look; none: it has no direction. */
  ways: readonly string[] | null
}

const direction = (ways: readonly string[]): Attribute => oneOf(ways, { initial: 'egress' })

export const KINDS: readonly Kind[] = [
  {
    type: 'bandwidth_limit',
    ways: WAYS,
    attributes: {
      max_kbps: int(0, INT, { create: 'required' }),
      max_burst_kbps: int(0, INT, { initial: 0 }),
      direction: direction(WAYS),
    },
  },
  {
    type: 'dscp_marking',
    ways: null,
    attributes: {
      dscp_mark: {
        ...int(0, 63, { create: 'required' }),
        clean(value, name) {
          const read = int(0, 63).clean!(value, name)
          if (DSCP.includes(read as number)) return read
          return oneOf(DSCP.map(String)).clean!(String(value), name)
        },
      },
    },
  },
  {
    type: 'minimum_bandwidth',
    ways: WAYS,
    attributes: { min_kbps: int(0, INT, { create: 'required' }), direction: direction(WAYS) },
  },
  {
    type: 'packet_rate_limit',
    ways: WAYS,
    attributes: {
      max_kpps: int(0, INT, { create: 'required' }),
      max_burst_kpps: int(0, INT, { initial: 0 }),
      direction: direction(WAYS),
    },
  },
  {
    type: 'minimum_packet_rate',
    ways: [...WAYS, 'any'],
    attributes: { min_kpps: int(0, INT, { create: 'required' }), direction: direction([...WAYS, 'any']) },
  },
]
