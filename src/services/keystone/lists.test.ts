// Lists: the words of filters, sorting and paging, and that no row of an answer costs a query.
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import type { KyselyPlugin } from 'kysely'
import { testDb } from '#kit/db/test.ts'
import { keystone } from './service.ts'
import { identityCloud } from './testing/cloud.ts'

test('filters, comparisons, sorting and pages', async t => {
  const cloud = await identityCloud(t)
  const token = await cloud.admin()
  const { domain } = (await cloud.call('POST /domains', { token, body: { domain: { name: 'd' } } })).body
  for (const [name, description, enabled] of [
    ['Ann', 'first', true],
    ['ben', '50%', false],
    ['Bea_1', null, true],
    ['bea21', 'first', true],
  ] as const) {
    const project = { name, domain_id: domain.id, enabled, ...(description !== null && { description }) }
    assert.equal((await cloud.call('POST /projects', { token, body: { project } })).status, 201)
  }
  const list = async (query: string) => {
    const { status, body } = await cloud.call(`GET /projects?domain_id=${domain.id}&${query}`, { token })
    return status === 200 ? body.projects.map((one: { name: string }) => one.name).join(' ') : status
  }
  const sorted = (query: string) => list(`sort_key=name&${query}`)
  assert.equal(await sorted(''), 'Ann Bea_1 bea21 ben')
  assert.equal(await list('sort=name:desc'), 'ben bea21 Bea_1 Ann')
  assert.equal(await list('name=Ann'), 'Ann')
  assert.equal(await sorted('enabled'), 'Ann Bea_1 bea21')
  assert.equal(await sorted('enabled=0'), 'ben')
  assert.equal(await sorted('enabled=False'), 'ben')
  assert.equal(await sorted('name__contains=ea'), 'Bea_1 bea21')
  assert.equal(await sorted('name__istartswith=bea_'), 'Bea_1', 'an underscore is no pattern')
  assert.equal(await sorted('description__endswith=%25'), 'ben', 'nor is a percent sign')
  assert.equal(await sorted('name__iequals=ANN'), 'Ann')
  assert.equal(await sorted('description=first&name__ne=Ann'), 'bea21')
  assert.equal(await sorted('parent_id=null'), '')
  assert.equal(await sorted('nothing=known&name__sounds=like'), 'Ann Bea_1 bea21 ben')
  assert.equal(await list('limit=x'), 400)
  assert.equal(await list('marker=nobody&limit=1'), 400)
  assert.equal(await list('sort_key=secret'), 400)
  const seen: string[] = []
  let next = `${cloud.url}/projects?domain_id=${domain.id}&sort_key=name&limit=3`
  while (next) {
    const { body } = await cloud.call(`GET ${next}`, { token })
    seen.push(...body.projects.map((one: { name: string }) => one.name))
    next = body.links.next
  }
  assert.deepEqual(seen, ['Ann', 'Bea_1', 'bea21', 'ben'])
})

/** A cloud that counts the answers of its database to queries outside transactions. */
async function counted(t: TestContext) {
  const db = await testDb(t, [{ schema: keystone.name, migrations: [...keystone.migrations] }])
  const folder = mkdtempSync(join(tmpdir(), 'nubo-lists-'))
  t.after(() => rmSync(folder, { recursive: true }))
  let queries = 0
  const counter: KyselyPlugin = {
    transformQuery: ({ node }) => node,
    async transformResult({ result }) {
      queries++
      return result
    },
  }
  const cloud = await identityCloud(t, '', { db: { ...db, read: db.read.withPlugin(counter) }, folder })
  return {
    cloud,
    /** Queries of a request, and the length of the list that it answers. */
    async cost(request: string, token: string, of: string) {
      await cloud.call(request, { token })
      const before = queries
      const { status, body } = await cloud.call(request, { token })
      assert.equal(status, 200, JSON.stringify(body))
      return { queries: queries - before, length: body[of].length as number }
    },
  }
}

test('no query for each row: assignments in effect on a tree of five levels, the catalog, users, projects, groups', async t => {
  const { cloud, cost } = await counted(t)
  const token = await cloud.admin()
  const made = async (path: string, one: string, body: object): Promise<string> =>
    (await cloud.call(`POST ${path}`, { token, body: { [one]: body } })).body[one].id
  const role = (await cloud.call('GET /roles?name=manager', { token })).body.roles[0].id
  const group = await made('/groups', 'group', { name: 'g' })
  let parent = await made('/projects', 'project', { name: 'level 1' })
  const root = parent
  await cloud.call(`PUT /OS-INHERIT/projects/${root}/groups/${group}/roles/${role}/inherited_to_projects`, { token })
  const widen = async (round: number) => {
    for (let i = 0; i < 3; i++) {
      const user = await made('/users', 'user', { name: `user ${round} ${i}` })
      await cloud.call(`PUT /groups/${group}/users/${user}`, { token })
      const service = await made('/services', 'service', { type: `t${round}${i}` })
      await made('/endpoints', 'endpoint', { service_id: service, interface: 'public', url: 'http://x/$(project_id)s' })
      await made('/projects', 'project', { name: `leaf ${round} ${i}`, parent_id: parent })
    }
  }
  for (let level = 2; level <= 4; level++)
    parent = await made('/projects', 'project', { name: `level ${level}`, parent_id: parent })
  await widen(1)
  const tree = `/role_assignments?effective&include_names&include_subtree&scope.project.id=${root}`
  const lists = { [tree]: 'role_assignments', '/auth/catalog': 'catalog', '/users': 'users', '/projects': 'projects' }
  const all = { ...lists, [`/groups/${group}/users`]: 'users', '/auth/projects': 'projects', '/roles': 'roles' }
  const few = new Map<string, { queries: number; length: number }>()
  for (const [path, of] of Object.entries(all)) few.set(path, await cost(`GET ${path}`, token, of))
  for (const round of [2, 3, 4]) await widen(round)
  for (const [path, of] of Object.entries(all)) {
    const [less, more] = [few.get(path)!, await cost(`GET ${path}`, token, of)]
    // One or two more where something remembered was just forgotten; nine more rows would be nine.
    assert.ok(more.queries <= less.queries + 2, `${path}: ${less.queries} queries, then ${more.queries}`)
    if (!['/auth/projects', '/roles'].includes(path)) assert.ok(more.length > less.length, path)
  }
})
