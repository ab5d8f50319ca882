import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Forest, type Node, SHARES } from './load.ts'
import { requestOf } from './request.ts'
import { search } from './search.ts'

const room = (capacity: number, used = 0) => ({ capacity, used, min: 1, max: capacity, step: 1 })

interface Made {
  id: string
  parent?: string
  has?: Record<string, number>
  traits?: string[]
  in?: string[]
}

function forest(...nodes: Made[]): Forest {
  return new Map(
    nodes.map(({ id, parent = null, has = {}, traits = [], in: aggregates = [] }): [string, Node] => [
      id,
      {
        id,
        parent,
        root: parent ?? id,
        traits: new Set(traits),
        aggregates: new Set(aggregates),
        rooms: new Map(Object.entries(has).map(([name, amount]) => [name, room(amount)])),
      },
    ]),
  )
}

const found = (query: string, trees: Forest, options = {}) =>
  search(requestOf(new URLSearchParams(query), 39), trees, { nested: true, most: 1000, breadthFirst: false, ...options }).map(c =>
    [...c.allocations].map(([id, amounts]) => `${id} ${[...amounts].map(([n, a]) => `${n}:${a}`)}`).sort(),
  )

const host = (id: string): Made[] => [
  { id, has: { VCPU: 8 } },
  { id: `${id}n0`, parent: id, has: { MEMORY_MB: 512, VGPU: 2 }, traits: ['CUSTOM_LEFT'] },
  { id: `${id}n1`, parent: id, has: { MEMORY_MB: 512, VGPU: 1 }, traits: ['CUSTOM_RIGHT'] },
]

test('a group without suffix is spread over a tree; one with a suffix is not', () => {
  const trees = forest(...host('h'))
  assert.deepEqual(found('resources=VCPU:2,MEMORY_MB:256', trees), [
    ['h VCPU:2', 'hn0 MEMORY_MB:256'],
    ['h VCPU:2', 'hn1 MEMORY_MB:256'],
  ])
  assert.deepEqual(found('resources1=VCPU:2,MEMORY_MB:256', trees), [])
  assert.deepEqual(found('resources=VCPU:2,MEMORY_MB:256', trees, { nested: false }), [])
  assert.deepEqual(found('resources=VCPU:2,MEMORY_MB:256&required=CUSTOM_LEFT', trees), [['h VCPU:2', 'hn0 MEMORY_MB:256']])
})

test('groups that meet on one provider must fit together; isolate keeps them apart', () => {
  const trees = forest(...host('h'))
  assert.deepEqual(found('resources1=VGPU:1&resources2=VGPU:1&group_policy=isolate', trees).length, 2)
  assert.deepEqual(found('resources1=VGPU:1&resources2=VGPU:1&group_policy=none', trees).length, 3)
  assert.deepEqual(found('resources1=VGPU:1&resources2=MEMORY_MB:1&group_policy=none&same_subtree=1,2', trees).length, 2)
})

test('a sharing provider lends to the trees of its aggregates', () => {
  const store = { id: 's', has: { DISK_GB: 100 }, traits: [SHARES], in: ['a'] }
  const trees = forest({ id: 'x', has: { VCPU: 4 }, in: ['a'] }, { id: 'y', has: { VCPU: 4 } }, store)
  assert.deepEqual(found('resources=VCPU:1,DISK_GB:5', trees), [['s DISK_GB:5', 'x VCPU:1']])
  assert.deepEqual(found('resources1=VCPU:1&resources2=DISK_GB:5&group_policy=isolate', trees), [['s DISK_GB:5', 'x VCPU:1']])
})

test('trees take turns when told so, and the search ends when it has enough', () => {
  const trees = forest(...host('g'), ...host('h'))
  const firsts = (breadthFirst: boolean) =>
    found('resources=VCPU:2,MEMORY_MB:256', trees, { breadthFirst, most: 2 }).map(c => c[0]![0])
  assert.deepEqual(firsts(false), ['g', 'g'])
  assert.deepEqual(firsts(true), ['g', 'h'])
})

test('what cannot be asked is refused', () => {
  const refused = (query: string, version = 39) => assert.throws(() => requestOf(new URLSearchParams(query), version), /./, query)
  refused('resources=VCPU')
  refused('resources=VCPU:0')
  refused('resources1=VCPU:1&resources2=VCPU:1')
  refused('resources=VCPU:1&required=A,!A')
  refused('resources=VCPU:1&required=in:A,B', 38)
  refused('resources=VCPU:1&member_of=a,b')
  refused('resources=VCPU:1&resources_X=VCPU:1&group_policy=none', 32)
  refused('required_X=A&resources=VCPU:1&group_policy=none')
  refused('limit=1')
})
