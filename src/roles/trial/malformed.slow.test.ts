import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { bodyFor, bodySchema, sample } from './bodies.ts'
import { type Entry, pathWith, type Sent, type TrialCloud, trialCloud, versionFor } from './cloud.ts'
import { unsound } from './sound.ts'

const closers: (() => Promise<void>)[] = []
let cloud: TrialCloud
before(async () => {
  cloud = await trialCloud({ after: fn => void closers.push(fn) })
})
after(async () => {
  for (const close of closers.reverse()) await close()
})

/** What no schema expects in most places, and what has broken programs before. */
const NASTY: readonly unknown[] = [
  null,
  -1,
  2 ** 63,
  '',
  'x'.repeat(5000),
  'a\u0000b',
  '\ud800',
  '😀'.repeat(64),
  [],
  [[[null]]],
  { constructor: 1, toString: null, length: -1 },
]

/** The same for paths and queries: what is left of it there. */
const NASTY_TEXT = ['-1', '99999999999999999999', '%00']

/** Sends all, some at once; gives back what was wrong with the answers. */
async function tryAll(
  requests: Iterable<{ entry: Entry; method?: string; path: string; sent: Sent; told: string }>,
): Promise<string[]> {
  const wrong: string[] = []
  const left = requests[Symbol.iterator]()
  const worker = async (): Promise<void> => {
    for (let next = left.next(); !next.done; next = left.next()) {
      const { entry, path, sent, told, method = entry.method } = next.value
      try {
        const answer = await cloud.send(method, path, {
          token: cloud.tokens.admin,
          ...sent,
          headers: { ...headersOf(entry), ...sent.headers },
        })
        const faults = unsound(entry, answer, method === 'HEAD')
        if (faults.length > 0) wrong.push(`${entry.service.name} ${method} ${entry.key} ${told}: ${faults.join('; ')}`)
      } catch (error) {
        wrong.push(`${entry.service.name} ${method} ${entry.key} ${told}: ${String(error)}`)
      }
    }
  }
  await Promise.all(Array.from({ length: 6 }, worker))
  return wrong
}

const headersOf = (entry: Entry): Record<string, string> => ({
  ...versionFor(entry),
  ...(entry.route?.media && { 'content-type': entry.route.media[0]! }),
})

/** Where a route's things are. Those that a wrong request could remove by being taken are left alone: nothing has their ids. */
const pathOf = (entry: Entry): string =>
  pathWith(entry, entry.method === 'DELETE' ? [] : [cloud.owned[entry.service.name]!, cloud.shared[entry.service.name]!]).path

type Json = Record<string, unknown>

/** Copies of a body with each of its fields, and each that the schema knows, replaced by each of the nasty values in turn. */
function* spoilt(body: unknown, schema: Json | undefined, depth = 0): Generator<[told: string, body: unknown]> {
  for (const nasty of NASTY) yield [`= ${show(nasty)}`, nasty]
  if (depth > 4) return
  if (Array.isArray(body)) {
    for (const [told, item] of spoilt(
      body[0] ?? sample((schema?.items ?? {}) as Json),
      schema?.items as Json | undefined,
      depth + 1,
    ))
      yield [`[0]${told}`, [item]]
    return
  }
  const properties = propertiesOf(schema)
  if (typeof body !== 'object' || body === null) return
  for (const name of new Set([...Object.keys(body), ...Object.keys(properties)])) {
    const inner = (body as Json)[name] ?? (properties[name] && sample(properties[name]))
    for (const [told, value] of spoilt(inner, properties[name], depth + 1)) yield [`.${name}${told}`, { ...body, [name]: value }]
  }
  yield ['.unheard-of', { ...body, 'unheard-of': 1 }]
}

function propertiesOf(schema: Json | undefined): Record<string, Json> {
  if (!schema) return {}
  const parts = [schema, ...['anyOf', 'oneOf', 'allOf'].flatMap(key => (schema[key] as Json[] | undefined) ?? [])]
  return Object.assign({}, ...parts.map(part => part.properties ?? {}))
}

const show = (value: unknown): string => (JSON.stringify(value) ?? 'undefined').slice(0, 30)

const takesBody = (entry: Entry): boolean =>
  ['POST', 'PUT', 'PATCH'].includes(entry.method) && !entry.route?.raw && entry.route !== undefined

test('bodies with fields of wrong types and odd values', async () => {
  function* requests() {
    for (const entry of cloud.entries.filter(takesBody)) {
      const path = pathOf(entry)
      for (const [told, body] of spoilt(bodyFor(cloud, entry), bodySchema(entry)))
        yield { entry, path, sent: { body: JSON.stringify(body) }, told }
    }
  }
  assert.deepEqual(await tryAll(requests()), [])
})

test('bodies that are no JSON, too large, too deep, or of another type', async () => {
  const bodies: Record<string, Sent> = {
    'no JSON': { body: '{"server": ' },
    'not UTF-8': { body: Buffer.from([0x7b, 0x22, 0xff, 0xfe, 0x22, 0x3a, 0x31, 0x7d]) },
    'a NUL byte': { body: '{"a":"\u0000"}' },
    deep: { body: `${'['.repeat(50_000)}${']'.repeat(50_000)}` },
    'deep objects': { body: `${'{"a":'.repeat(15_000)}1${'}'.repeat(15_000)}` },
    huge: { body: `{"a":"${'x'.repeat(1 << 20)}"}` },
    nothing: { body: '' },
    text: { body: 'hello', headers: { 'content-type': 'text/plain' } },
    form: { body: 'a=b', headers: { 'content-type': 'application/x-www-form-urlencoded' } },
    'odd type': { body: '{}', headers: { 'content-type': ';;;' } },
    'a BOM': { body: '\ufeff{}' },
    'two keys': { body: '{"os-start":null,"os-stop":null}' },
  }
  function* requests() {
    for (const entry of cloud.entries) {
      if (!takesBody(entry) && !(entry.method === 'DELETE' && entry.route)) continue
      for (const [told, sent] of Object.entries(bodies)) yield { entry, path: pathOf(entry), sent, told }
    }
  }
  assert.deepEqual(await tryAll(requests()), [])
})

test('odd text in paths', async () => {
  function* requests() {
    for (const entry of cloud.entries.filter(e => /[:*]/.test(e.path))) {
      const known = entry.method === 'DELETE' ? [] : [cloud.owned[entry.service.name]!, cloud.shared[entry.service.name]!]
      const good = pathWith(entry, known).path.split('/')
      const mount = entry.service.prefix.split('/').length - 1
      const segments = entry.path.split('/')
      for (let at = 0; at < segments.length; at++) {
        if (!/^[:*]/.test(segments[at]!)) continue
        for (const nasty of ['', '%00', '%ff', '%zz', '%F0%9F%98%80', '..%2f..', 'a'.repeat(3000)]) {
          const path = good.map((segment, i) => (i === at + mount ? nasty : segment)).join('/')
          yield { entry, path, sent: { body: bodyFor(cloud, entry) }, told: path.slice(0, 200) }
        }
      }
    }
  }
  assert.deepEqual(await tryAll(requests()), [])
})

test('odd queries', async () => {
  const names = ['limit', 'marker', 'sort_key', 'sort_dir', 'fields', 'name']
  function* queries(entry: Entry): Generator<string> {
    const known = Object.keys(propertiesOf(entry.route?.query as Json | undefined))
    const isList = !/[:*][^/]*$/.test(entry.path)
    for (const name of new Set([...(isList ? names : ['fields']), ...known]))
      for (const nasty of NASTY_TEXT) yield `${name}=${nasty}`
    yield* [
      '&&&',
      '=',
      '=x',
      'a',
      '%00=1',
      '%ff=%ff',
      'limit=1&limit=2',
      'name=a&name=b&name=',
      'a[b]=c',
      '__proto__=1',
      'constructor=x',
      'toString',
    ]
    yield `sort_key=${'id&sort_key='.repeat(50)}id`
  }
  function* requests() {
    for (const entry of cloud.entries.filter(e => e.method === 'GET' && e.route))
      for (const query of queries(entry))
        yield { entry, path: `${pathOf(entry)}?${query}`, sent: {}, told: `?${query.slice(0, 100)}` }
  }
  assert.deepEqual(await tryAll(requests()), [])
})

test('versions that are unknown or malformed', async () => {
  const wrong: string[] = []
  for (const entry of cloud.entries) {
    const m = entry.service.microversions
    if (!m || entry.method === 'DELETE') continue
    const asked: Record<string, number> = {
      [`${m.major}.${m.max + 1}`]: 406,
      [`${m.major + 1}.0`]: 406,
      '0.1': 406,
      x: 400,
      '2.': 400,
      '': 0,
      '-1.1': 400,
      '1.1.1': 400,
    }
    for (const [version, status] of Object.entries(asked)) {
      const headers: Record<string, string>[] = [{ 'openstack-api-version': `${m.type} ${version}` }]
      if (m.legacyHeader) headers.push({ [m.legacyHeader]: version })
      for (const header of headers) {
        const answer = await cloud.send(entry.method, pathOf(entry), { token: cloud.tokens.foreign, headers: header })
        const faults = unsound(entry, answer)
        if (status > 0 && answer.status !== status) faults.push(`answered ${answer.status} instead of ${status}`)
        if (faults.length > 0) wrong.push(`${entry.service.name} ${entry.key} ${JSON.stringify(header)}: ${faults.join('; ')}`)
      }
    }
  }
  assert.deepEqual(wrong, [])
})
