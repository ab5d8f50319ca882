import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  addressNumber,
  chainDigest,
  type NftActual,
  type NftTable,
  nftDelete,
  nftDiff,
  nftEnsure,
  nftOnce,
  nftRead,
  parseTable,
  widest,
  within,
} from './nft.ts'
import { testNetns } from './test.ts'

const root = process.getuid?.() === 0 ? false : 'needs root'

const table = (
  sets: Record<string, [string, Record<string, string>]>,
  chains: Record<string, { hook?: string; rules: string[] }>,
): NftTable => ({
  family: 'inet',
  name: 'nubo-test',
  sets: new Map(
    Object.entries(sets).map(([name, [definition, elements]]) => [
      name,
      { definition, elements: new Map(Object.entries(elements)), ...(name !== 'm' && { transient: true as const }) },
    ]),
  ),
  chains: new Map(Object.entries(chains)),
})

test('parses a captured listing: sets, concatenations, prefixes, verdict maps, rule comments', () => {
  const listing = `{"nftables": [{"metainfo": {"version": "1.0.6", "json_schema_version": 1}}, {"table": {"family": "bridge", "name": "nubo", "handle": 1}},
{"map": {"family": "bridge", "name": "from", "table": "nubo", "type": "ifname", "handle": 3, "map": "mark", "elem": [["tapx", 1]]}},
{"set": {"family": "bridge", "name": "ok4", "table": "nubo", "type": ["mark", "ether_addr", "ipv4_addr"], "handle": 4}},
{"set": {"family": "bridge", "name": "ok4n", "table": "nubo", "type": ["mark", "ether_addr", "ipv4_addr"], "handle": 5, "flags": ["interval"], "elem": [{"concat": [1, "02:00:00:00:00:01", {"prefix": {"addr": "10.0.0.0", "len": 24}}]}, {"concat": [1, "02:00:00:00:00:01", "11.0.0.1"]}]}},
{"map": {"family": "inet", "name": "eg", "table": "nubo", "type": "mark", "handle": 6, "map": "verdict", "elem": [[1, {"jump": {"target": "combo-1"}}]]}},
{"chain": {"family": "bridge", "table": "nubo", "name": "input", "handle": 2, "type": "filter", "hook": "input", "prio": -310, "policy": "accept"}},
{"rule": {"family": "bridge", "table": "nubo", "chain": "input", "handle": 11, "comment": "x", "expr": [{"mangle": {"key": {"meta": {"key": "mark"}}, "value": 0}}]}}]}`
  const { sets, chains } = parseTable(listing)
  assert.deepEqual([...(sets.get('from') ?? [])], [['tapx', '1']])
  assert.deepEqual([...(sets.get('ok4') ?? [])], [])
  assert.deepEqual(
    [...(sets.get('ok4n')?.keys() ?? [])],
    ['1 . 02:00:00:00:00:01 . 10.0.0.0/24', '1 . 02:00:00:00:00:01 . 11.0.0.1'],
  )
  assert.deepEqual([...(sets.get('eg') ?? [])], [['1', 'jump combo-1']])
  assert.deepEqual([...chains], [['input', ['x']]])
})

test('a right chain is left alone, a chain with a rule too many is filled anew', () => {
  const wanted = table({}, { c: { rules: ['accept'] } })
  const first = nftDiff(wanted, null)
  const version = /add chain inet nubo-test (version-\w+)/.exec(first)?.[1] as string
  const mark = chainDigest(['accept'])
  const actual = (comments: (string | null)[]) => ({
    sets: new Map(),
    helpers: new Set<string>(),
    chains: new Map([
      ['c', comments],
      [version, []],
    ]),
  })
  assert.equal(nftDiff(wanted, actual([mark])), '')
  assert.match(
    nftDiff(wanted, actual([mark, null])),
    /^flush chain inet nubo-test c\nadd rule inet nubo-test c accept comment "\w+"\n$/,
  )
})

test('another skeleton replaces the whole table in the same transaction', () => {
  const wanted = table({}, { c: { hook: 'type filter hook input priority 5', rules: [] } })
  assert.match(
    nftDiff(wanted, { sets: new Map(), chains: new Map([['version-old', []]]), helpers: new Set() }),
    /^delete table inet nubo-test\nadd table inet nubo-test\n/,
  )
})

const sorted = (actual: NftActual | null) => ({
  sets: [...actual!.sets].map(([name, elements]) => [name, [...elements].sort()]).sort(),
  chains: [...actual!.chains].sort(),
})

test('the kernel is made to match, step by step, and then nothing is sent', { skip: root }, async t => {
  const place = { netns: await testNetns(t, 'nft') }
  const steps = [
    table(
      { m: ['type mark : verdict', {}] },
      { base: { hook: 'type filter hook forward priority -5; policy accept', rules: ['meta mark vmap @m'] } },
    ),
    table(
      {
        m: ['type mark : verdict', { '1': 'jump a', '2': 'jump b' }],
        s: ['type ipv4_addr; flags interval', { '10.0.0.0/24': '', '10.1.0.1': '' }],
        six: ['type mark . ether_addr . ipv6_addr', { '7 . 02:00:00:00:00:01 . fe80::1': '' }],
      },
      {
        base: { hook: 'type filter hook forward priority -5; policy accept', rules: ['meta mark vmap @m'] },
        a: { rules: ['jump b', 'drop'] },
        b: { rules: ['ip saddr @s tcp dport 22 accept'] },
      },
    ),
    table(
      { m: ['type mark : verdict', { '2': 'jump c' }], s: ['type ipv4_addr; flags interval', { '10.0.0.0/24': '' }] },
      {
        base: { hook: 'type filter hook forward priority -5; policy accept', rules: ['meta mark vmap @m'] },
        c: { rules: ['ip saddr @s accept', 'drop'] },
      },
    ),
    {
      ...table(
        {},
        { base: { hook: 'type filter hook forward priority -5; policy accept', rules: ['tcp dport 21 ct helper set "f"'] } },
      ),
      helpers: new Map([['f', { type: 'ftp', protocol: 'tcp' as const }]]),
    },
    table({}, { base: { hook: 'type filter hook forward priority -5; policy accept', rules: [] } }),
  ]
  for (const wanted of steps) {
    assert.notEqual(await nftEnsure(place, wanted), '')
    assert.equal(await nftEnsure(place, wanted), '')
    assert.deepEqual(sorted(await nftRead(place, 'inet', 'nubo-test')), sorted(nftOnce(wanted)), 'told without a look')
  }
  await nftDelete(place, 'inet', 'nubo-test')
  assert.equal(await nftRead(place, 'inet', 'nubo-test'), null)
})

test('prefixes that lie in others are left out; addresses compare as numbers', () => {
  assert.deepEqual(widest(['10.0.0.0/24', '10.0.0.5', '10.0.1.0/24', '10.0.0.0/16', '10.1.0.0/16', '10.0.0.0/16']), [
    '10.0.0.0/16',
    '10.1.0.0/16',
  ])
  assert.deepEqual(widest(['fd00::/64', 'fd00::1', 'fd00:1::/64']), ['fd00::/64', 'fd00:1::/64'])
  assert.equal(addressNumber('::ffff:1.2.3.4'), 0xffff01020304n)
  assert.equal(addressNumber('fe80::1'), (0xfe80n << 112n) + 1n)
  assert.equal(within('10.0.3.4', '10.0.0.0/22'), true)
  assert.equal(within('10.0.4.4', '10.0.0.0/22'), false)
  assert.equal(within('::1', '0.0.0.0/0'), false)
})
