import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { Client } from 'ldapts'
import { identityCloud } from '../testing/cloud.ts'

const SLAPD = '/usr/sbin/slapd'

/** A port that nothing listens on, by now. */
const freePort = (): Promise<number> =>
  new Promise(resolve => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number }
      server.close(() => resolve(port))
    })
  })

const entry = (dn: string, lines: Record<string, string | string[]>): string =>
  [
    `dn: ${dn}`,
    ...Object.entries(lines).flatMap(([name, values]) => [values].flat().map(value => `${name}: ${value}`)),
    '',
    '',
  ].join('\n')

const USERS = 'ou=Users,dc=acme'
const person = (cn: string, password: string) =>
  entry(`cn=${cn},${USERS}`, { objectClass: 'inetOrgPerson', cn, sn: cn, mail: `${cn}@acme`, userPassword: password })

/** An OpenLDAP server of the test's own. */
async function slapd(t: TestContext): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'nubo-slapd-'))
  chmodSync(folder, 0o755)
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  mkdirSync(join(folder, 'db'))
  const schemas = ['core', 'cosine', 'inetorgperson'].map(name => `include /etc/ldap/schema/${name}.schema`)
  const config = [
    ...schemas,
    `modulepath /usr/lib/ldap`,
    'moduleload back_mdb',
    `pidfile ${folder}/pid`,
    'database mdb',
    'suffix "dc=acme"',
    'rootdn "cn=admin,dc=acme"',
    'rootpw boss',
    `directory ${folder}/db`,
  ]
  writeFileSync(join(folder, 'slapd.conf'), `${config.join('\n')}\n`)
  const ldif =
    entry('dc=acme', { objectClass: ['dcObject', 'organization'], dc: 'acme', o: 'acme' }) +
    entry(USERS, { objectClass: 'organizationalUnit', ou: 'Users' }) +
    entry('ou=UserGroups,dc=acme', { objectClass: 'organizationalUnit', ou: 'UserGroups' }) +
    person('ann', 'secret-a') +
    person('bob', 'secret-b') +
    entry('cn=devs,ou=UserGroups,dc=acme', {
      objectClass: 'groupOfNames',
      cn: 'devs',
      ou: 'developers',
      member: `cn=ann, ${USERS}`,
    })
  writeFileSync(join(folder, 'all.ldif'), ldif)
  const added = spawnSync('/usr/sbin/slapadd', ['-f', join(folder, 'slapd.conf'), '-l', join(folder, 'all.ldif')], {
    encoding: 'utf8',
  })
  assert.equal(added.status, 0, added.stderr)
  const url = `ldap://127.0.0.1:${await freePort()}`
  const child = spawn(SLAPD, ['-f', join(folder, 'slapd.conf'), '-h', url, '-d', '0'], { stdio: 'ignore' })
  t.after(() => child.kill())
  for (const until = Date.now() + 10_000; ; ) {
    const client = new Client({ url, connectTimeout: 500 })
    try {
      await client.bind('cn=admin,dc=acme', 'boss')
      await client.unbind()
      return url
    } catch (error) {
      if (Date.now() > until) throw error
      await new Promise(resolve => setTimeout(resolve, 50))
    }
  }
}

test('a domain whose users live in OpenLDAP', { skip: !existsSync(SLAPD) && 'slapd is not installed' }, async t => {
  const url = await slapd(t)
  const { call, admin } = await identityCloud(t)
  const token = await admin()
  const domain = (await call('POST /domains', { token, body: { domain: { name: 'acme' } } })).body.domain.id
  const config = { identity: { driver: 'ldap' }, ldap: { url, user: 'cn=admin,dc=acme', password: 'boss', suffix: 'dc=acme' } }
  assert.equal((await call(`PUT /domains/${domain}/config`, { token, body: { config } })).status, 201)
  assert.equal(JSON.stringify((await call(`GET /domains/${domain}/config`, { token })).body).includes('boss'), false)

  const listed = await call(`GET /users?domain_id=${domain}`, { token })
  assert.deepEqual(
    listed.body.users.map((user: { name: string }) => user.name).sort(),
    ['ann', 'bob'],
    JSON.stringify(listed.body),
  )
  const ann = listed.body.users.find((user: { name: string }) => user.name === 'ann')
  assert.equal(ann.id.length, 64)
  assert.equal(ann.email, 'ann@acme')
  const groups = (await call(`GET /groups?domain_id=${domain}`, { token })).body.groups
  assert.deepEqual(
    groups.map((group: { name: string }) => group.name),
    ['developers'],
  )

  const project = (await call('POST /projects', { token, body: { project: { name: 'p', domain_id: domain } } })).body.project.id
  const role = (await call('GET /roles?name=member', { token })).body.roles[0].id
  await call(`PUT /projects/${project}/groups/${groups[0].id}/roles/${role}`, { token })
  const login = (name: string, password: string, scope?: unknown) =>
    call('POST /auth/tokens', {
      body: {
        auth: {
          identity: { methods: ['password'], password: { user: { name, password, domain: { id: domain } } } },
          ...(scope !== undefined && { scope }),
        },
      },
    })
  const scoped = await login('ann', 'secret-a', { project: { id: project } })
  assert.equal(scoped.status, 201, JSON.stringify(scoped.body))
  assert.equal(scoped.body.token.user.id, ann.id)
  assert.equal((await login('bob', 'secret-b', { project: { id: project } })).status, 401, 'not in the group')
  for (const [name, password] of [
    ['ann', 'wrong'],
    ['ann', ''],
    ['*', 'secret-a'],
    ['ann)(cn=*', 'secret-a'],
    ['nobody', 'x'],
  ]) {
    const answer = await login(name!, password!)
    assert.equal(answer.status, 401, name)
    assert.equal(answer.body.error.message, 'The request you have made requires authentication.')
  }
  assert.equal((await call('POST /users', { token, body: { user: { name: 'x', domain_id: domain } } })).status, 403)
  assert.equal((await call(`PATCH /users/${ann.id}`, { token, body: { user: { password: 'x' } } })).status, 403)

  const client = new Client({ url })
  await client.bind('cn=admin,dc=acme', 'boss')
  await client.del(`cn=bob,${USERS}`)
  await client.unbind()
  assert.equal((await login('bob', 'secret-b')).status, 401)
})
