import assert from 'node:assert/strict'
import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import {
  Array as ArraySchema,
  Boolean as BooleanSchema,
  Integer,
  Number as NumberSchema,
  Object as ObjectSchema,
  Optional,
  String as StringSchema,
} from 'typebox'
import { ConfigError, configReference, defaultDataDir, loadConfig, nuboSettings, parseConfig, settings } from './config.ts'

const nova = settings(
  'nova',
  ObjectSchema({
    cpu_allocation_ratio: NumberSchema({ default: 4, minimum: 0, description: 'Virtual CPUs a core | thread.' }),
    images: ArraySchema(StringSchema(), { default: [], description: 'Names.' }),
    cache: ObjectSchema({
      size: Integer({ default: 10, description: 'Entries.' }),
      on: Optional(BooleanSchema({ description: 'Whether.' })),
    }),
  }),
  'Compute.',
)
const parse = (text: string, overrides = {}) => parseConfig(text, 'n.yaml', [nova], overrides)
const problems = (text: string, overrides = {}) => {
  try {
    parse(text, overrides)
  } catch (error) {
    assert.ok(error instanceof ConfigError)
    return error.problems
  }
  return assert.fail('accepted')
}

test('an empty file gives the defaults, nested ones too', () => {
  const config = parse('')
  assert.deepEqual(config.of(nova), { cpu_allocation_ratio: 4, images: [], cache: { size: 10 } })
  assert.equal(config.of(nuboSettings).listen, '127.0.0.1:5000')
  assert.equal(config.of(nuboSettings).log_level, 'info')
  assert.equal(config.dataDir, defaultDataDir())
})

test('the file wins over defaults and the command line over the file', () => {
  const config = parse('nubo: {data: /x, listen: "[::1]:80"}\nnova:\n  cache:\n    size: 3\n', {
    nubo: { data: '/y/../z', listen: undefined },
  })
  assert.equal(config.dataDir, '/z')
  assert.equal(config.of(nuboSettings).listen, '[::1]:80')
  assert.deepEqual(config.of(nova).cache, { size: 3 })
})

test('every mistake is named with file, line, column and key', () => {
  assert.deepEqual(
    problems('nova:\n  cpu_alocation_ratio: 2\n  images: [a, 1]\n  cache:\n    size: 1.5\n    sise: 1\nnoova: {}\n'),
    [
      'n.yaml:7:1: noova: unknown section, did you mean nova?',
      'n.yaml:2:3: nova.cpu_alocation_ratio: unknown key, did you mean cpu_allocation_ratio?',
      'n.yaml:3:15: nova.images.1: must be string, not 1',
      'n.yaml:6:5: nova.cache.sise: unknown key, did you mean size?',
      'n.yaml:5:5: nova.cache.size: must be integer, not 1.5',
    ],
  )
  assert.deepEqual(problems('nova: 5'), ['n.yaml:1:1: nova: must be object, not 5'])
  assert.deepEqual(problems('nubo:\n  log_level: loud'), [
    'n.yaml:2:3: nubo.log_level: must be one of trace, debug, info, warn, error, fatal, not "loud"',
  ])
  assert.deepEqual(problems('', { nova: { cpu_allocation_ratio: -1 } }), [
    'command line: nova.cpu_allocation_ratio: must be >= 0, not -1',
  ])
})

test('broken YAML, duplicate keys and a file that is a list are refused with a place', () => {
  assert.match(problems('nova:\n  a: [1\n')[0]!, /^n\.yaml:\d+:\d+: /)
  assert.match(problems('nova: {}\nnova: {}\n')[0]!, /^n\.yaml:2:1: Map keys must be unique/)
  assert.deepEqual(problems('- a'), ['n.yaml:1:1: the file must hold sections (a mapping)'])
})

test('a message never shows the password of a database URL', () => {
  const [problem] = problems('nubo: {database_url: "mysql://me:geheim@db/x"}')
  assert.match(problem!, /mysql:\/\/me:\*\*\*@db/)
})

test('a missing required setting is an error at its section', () => {
  const s = settings('s', ObjectSchema({ url: StringSchema({ description: 'u' }) }))
  assert.throws(() => parseConfig('nubo: {}\ns: {}\n', 'f', [s]), { message: 'f:2:1: s.url: is missing and has no default' })
})

test('two loads do not share values, and a foreign section is a mistake of the program', () => {
  const [a, b] = [parse(''), parse('')]
  a.of(nova).images.push('x')
  assert.deepEqual(b.of(nova).images, [])
  assert.throws(() => a.of(settings('nova', nova.schema)), /not loaded/)
})

test('a named file must exist, the default one need not', () => {
  const folder = mkdtempSync(join(tmpdir(), 'policy-config-'))
  const file = join(folder, 'nubo.yaml')
  assert.equal(loadConfig(file, [nova]).of(nova).cache.size, 10)
  assert.throws(() => loadConfig(file, [nova], {}, { required: true }), /cannot be read/)
  writeFileSync(file, 'nova: {cache: {size: 7}}')
  assert.equal(loadConfig(file, [nova]).of(nova).cache.size, 7)
})

test('the reference lists every setting', () => {
  const text = configReference([nova])
  assert.match(text, /^## nova\n\nCompute\.\n/m)
  assert.match(text, /\| `cpu_allocation_ratio` \| number ≥ 0 \| `4` \| Virtual CPUs a core \\\| thread\. \|/)
  assert.match(text, /\| `cache\.size` \| integer \| `10` \| Entries\. \|/)
  assert.match(text, /\| `images` \| list of string \| `\[\]` \|/)
  assert.match(text, /\| `log_level` \| `trace`, `debug`/)
})
