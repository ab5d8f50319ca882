/** What a bench file exports, and what a measurement is. */

/** A measured figure beside its limit: what the machine itself allows, measured in the same run where the figure asks for that. */
export interface Figure {
  figure: string
  value: number
  unit: string
  /** The bound to meet: an absolute one, or `ratio` times what `limit` measured. */
  limit: number
  /** value / limit. */
  ratio: number
  /** Whether the figure meets its demand. */
  ok: boolean
  note?: string
}

export interface Bench {
  /** One sentence. */
  about: string
  run(say: (line: string) => void): Promise<Figure[]>
}

const round = (n: number): number => Number(n.toPrecision(4))

/** At most `limit`. */
export const atMost = (figure: string, value: number, unit: string, limit: number, note?: string): Figure => ({
  figure,
  value: round(value),
  unit,
  limit: round(limit),
  ratio: round(value / limit),
  ok: value <= limit,
  note,
})

/** At least `share` of `limit`, which was measured beside it. */
export const atLeast = (figure: string, value: number, unit: string, limit: number, share: number, note?: string): Figure => ({
  figure,
  value: round(value),
  unit,
  limit: round(limit),
  ratio: round(value / limit),
  ok: value >= share * limit,
  note,
})
