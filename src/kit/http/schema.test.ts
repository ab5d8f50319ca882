import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Fault } from '../fault.ts'
import * as S from './schema.ts'

const Server = S.Object(
  {
    name: S.String({ minLength: 1, maxLength: 255 }),
    description: S.since(19, S.Optional(S.Nullable(S.String()))),
    personality: S.until(56, S.Optional(S.Array(S.String()))),
    networks: S.byVersion([1, S.Optional(S.Array(S.String()))], [37, S.Union([S.OneOf('auto', 'none'), S.Array(S.Uuid())])]),
    count: S.Optional(S.Integer({ minimum: 1, default: 1 })),
  },
  { additionalProperties: false },
)
const message = (fn: () => void): string => {
  try {
    fn()
  } catch (error) {
    assert.ok(error instanceof Fault)
    assert.equal(error.status, 400)
    return error.message
  }
  return assert.fail('should have been refused')
}

test('a field exists only in its range of versions', () => {
  const check = S.checker(Server, 'body')
  check({ name: 'a', personality: [] }, 1)
  check({ name: 'a', description: null, networks: 'auto' }, 104)
  assert.match(
    message(() => check({ name: 'a', description: 'x' }, 18)),
    /'description' was unexpected/,
  )
  assert.match(
    message(() => check({ name: 'a', personality: [], networks: 'none' }, 57)),
    /'personality' was unexpected/,
  )
  assert.match(
    message(() => check({ name: 'a' }, 37)),
    /'networks' is a required property/,
  )
  assert.deepEqual(S.breakpoints(Server), [1, 19, 37, 57])
})

test('defaults are filled in, and the wrong field is named', () => {
  const check = S.checker(Server, 'body')
  const body = { name: 'a' }
  check(body, 1)
  assert.deepEqual(body, { name: 'a', count: 1 })
  assert.match(
    message(() => check({ name: '' }, 1)),
    /attribute name\. Value: \. '' is too short/,
  )
  assert.match(
    message(() => check({ name: 'a', count: 'x' }, 1)),
    /attribute count\. Value: x\. 'x' is not of type 'integer'/,
  )
})

test('query values are converted to the types of the schema', () => {
  const query = { limit: '10', all: 'true' } as Record<string, unknown>
  S.checker(S.Object({ limit: S.Optional(S.Integer()), all: S.Optional(S.Boolean()) }), 'query')(query, 0)
  assert.deepEqual(query, { limit: 10, all: true })
})

test('plain JSON inside Unsafe keeps its own list of required fields', () => {
  const check = S.checker(S.Unsafe({ type: 'object', properties: { a: { type: 'string' } }, required: [] }), 'body')
  check({}, 1)
})
