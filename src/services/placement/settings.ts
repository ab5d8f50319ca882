import { settings } from '#kit/config.ts'
import { Boolean, Integer, Literal, Object, Union } from '#kit/http/schema.ts'

export const placementSettings = settings(
  'placement',
  Object({
    randomize_allocation_candidates: Boolean({
      default: false,
      description: 'Whether candidates come in random order, and a limit takes some at random.',
    }),
    max_allocation_candidates: Integer({
      default: 100_000,
      minimum: 1,
      description: 'Candidates of one request that are looked for at most.',
    }),
    allocation_candidates_generation_strategy: Union([Literal('depth-first'), Literal('breadth-first')], {
      default: 'depth-first',
      description: 'Whether all candidates of one tree are found before those of the next, or trees take turns.',
    }),
  }),
  'Placement. Names are those of placement.conf.',
)
