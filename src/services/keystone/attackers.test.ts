// What attackers try against identity as a whole; what they try against one part is tested beside that part.
import assert from 'node:assert/strict'
import { createHash, createHmac } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { ADMIN_SCOPE, type Answer, type IdentityCloud, identityCloud, PASSWORD } from './testing/cloud.ts'
import { stale } from './tokens/stale.ts'

const byPassword = (name: string, password: string, domain: object = { id: 'default' }) => ({
  auth: { identity: { methods: ['password'], password: { user: { name, password, domain } } } },
})

async function userOf(cloud: IdentityCloud, token: string): Promise<string> {
  return (await cloud.call('GET /auth/tokens', { token, headers: { 'x-subject-token': token } })).body.token.user.id
}

const shown = ({ status, body, headers }: Answer) => ({
  status,
  body,
  headers: [...headers.keys()].filter(name => !['x-openstack-request-id', 'date'].includes(name)).sort(),
})

test('an unknown name, a wrong password, a locked, a disabled and a foreign account are answered alike', async t => {
  const cloud = await identityCloud(t, 'security_compliance: { lockout_failure_attempts: 3 }')
  const token = await cloud.admin()
  const user = (name: string, more = {}) =>
    cloud.call('POST /users', { token, body: { user: { name, password: 'right', ...more } } })
  for (const name of ['ann', 'locked']) assert.equal((await user(name)).status, 201)
  assert.equal((await user('off', { enabled: false })).status, 201)
  const login = (name: string, password: string, domain?: object) =>
    cloud.call('POST /auth/tokens', { body: byPassword(name, password, domain) })
  for (let i = 0; i < 3; i++) await login('locked', 'wrong')
  const unknown = shown(await login('nobody', 'wrong'))
  assert.equal(unknown.status, 401)
  assert.deepEqual(shown(await login('ann', 'wrong')), unknown)
  assert.deepEqual(shown(await login('locked', 'right')), unknown)
  assert.deepEqual(shown(await login('off', 'right')), unknown)
  assert.deepEqual(shown(await login('ann', 'right', { name: 'no such domain' })), unknown)
  const change = (id: string) =>
    cloud.call(`POST /users/${id}/password`, { body: { user: { original_password: 'wrong', password: 'new' } } })
  assert.deepEqual(shown(await change('0'.repeat(32))), shown(await change(await userOf(cloud, token))))
})

test('how long an answer takes does not tell whether there is such a user', async t => {
  const cloud = await identityCloud(
    t,
    'identity: { password_hash_rounds: 13 }\nsecurity_compliance: { lockout_failure_attempts: 1000 }',
  )
  const token = await cloud.admin()
  await cloud.call('POST /users', { token, body: { user: { name: 'ann', password: 'right' } } })
  const times: Record<string, number[]> = { ann: [], nobody: [] }
  // In turns, so that what else the machine does is fair to both.
  for (let round = 0; round < 20; round++) {
    for (const name of ['ann', 'nobody']) {
      const began = performance.now()
      assert.equal((await cloud.call('POST /auth/tokens', { body: byPassword(name, 'wrong') })).status, 401)
      if (round >= 5) times[name]!.push(performance.now() - began)
    }
  }
  const median = (list: number[]) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)]!
  const [there, absent] = [median(times.ann!), median(times.nobody!)]
  // Without the hash the answer would come in a tenth of the time.
  assert.ok(there < 2 * absent && absent < 2 * there, `${there} ms and ${absent} ms`)
})

test('of many guesses sent at once no more count than of guesses sent one by one', async t => {
  // Hashes take long enough for all to be read before the first is counted.
  const cloud = await identityCloud(t, 'identity: { password_hash_rounds: 15 }')
  const token = await cloud.admin()
  await cloud.call('POST /users', { token, body: { user: { name: 'ann', password: 'right' } } })
  const guesses = [...Array.from({ length: 8 }, (_, i) => `wrong ${i}`), 'right']
  const answers = await Promise.all(guesses.map(guess => cloud.call('POST /auth/tokens', { body: byPassword('ann', guess) })))
  assert.deepEqual(new Set(answers.map(answer => answer.status)), new Set([401]))
})

test('secrets are in no log and no recording', async t => {
  const folder = mkdtempSync(join(tmpdir(), 'nubo-secrets-'))
  t.after(() => rmSync(folder, { recursive: true }))
  const file = join(folder, 'exchanges.jsonl')
  const log: string[] = []
  const cloud = await identityCloud(t, '', undefined, '', file, line => log.push(line))
  const token = await cloud.admin()
  const me = await userOf(cloud, token)
  const secrets = new Set([PASSWORD, token, 'first-secret', 'second-secret', 'SEEDSEEDSEEDSEED'])
  await cloud.call('POST /users', { token, body: { user: { name: 'ann', password: 'first-secret' } } })
  const ann = await cloud.login('ann', 'first-secret')
  secrets.add(ann)
  const id = await userOf(cloud, ann)
  const change = { user: { original_password: 'first-secret', password: 'second-secret' } }
  assert.equal((await cloud.call(`POST /users/${id}/password`, { body: change })).status, 204)
  const made = await cloud.call(`POST /users/${me}/application_credentials`, {
    token,
    body: { application_credential: { name: 'a' } },
  })
  const { secret } = made.body.application_credential
  secrets.add(secret)
  const identity = {
    methods: ['application_credential'],
    application_credential: { id: made.body.application_credential.id, secret },
  }
  const login = await cloud.call('POST /auth/tokens', { body: { auth: { identity } } })
  secrets.add(login.headers.get('x-subject-token')!)
  const ec2 = await cloud.call(`POST /users/${me}/credentials/OS-EC2`, { token, body: { tenant_id: cloud.adminProjectId } })
  secrets.add(ec2.body.credential.secret)
  await cloud.call('POST /credentials', { token, body: { credential: { type: 'totp', blob: 'SEEDSEEDSEEDSEED', user_id: me } } })
  const consumer = await cloud.call('POST /OS-OAUTH1/consumers', { token, body: { consumer: {} } })
  secrets.add(consumer.body.consumer.secret)
  const config = { config: { ldap: { url: 'ldap://127.0.0.1:1', password: 'second-secret' } } }
  await cloud.call('PUT /domains/default/config', { token, body: config })
  await cloud.call('POST /auth/tokens', { body: byPassword('ann', 'first-secret') })
  await cloud.stop()
  const recorded = readFileSync(file, 'utf8')
  assert.match(recorded, /OS-OAUTH1\/consumers/)
  assert.match(log.join(''), /auth\/tokens/)
  for (const one of secrets) {
    assert.ok(one, 'a secret')
    assert.equal(recorded.includes(one), false, `in the recording: ${one.slice(0, 40)}`)
    assert.equal(log.join('').includes(one), false, `in the log: ${one.slice(0, 40)}`)
  }
})

test('a token for a signed request opens nothing here', async t => {
  const cloud = await identityCloud(t)
  const token = await cloud.admin()
  const me = await userOf(cloud, token)
  const made = await cloud.call(`POST /users/${me}/credentials/OS-EC2`, { token, body: { tenant_id: cloud.adminProjectId } })
  const { access, secret } = made.body.credential
  const params = { SignatureVersion: '0', Action: 'x', Timestamp: new Date().toISOString() }
  const signature = createHmac('sha1', secret).update(`x${params.Timestamp}`).digest('base64')
  const answer = await cloud.call('POST /ec2tokens', { token, body: { credentials: { access, signature, params } } })
  assert.equal(answer.status, 200, JSON.stringify(answer.body))
  const signed = answer.headers.get('x-subject-token')!
  const again = { auth: { identity: { methods: ['token'], token: { id: signed } } } }
  for (const forget of [false, true]) {
    // Also where only its text is known, as on another process.
    if (forget) await cloud.db.tx(tx => stale(tx, `user:${me}`))
    assert.equal((await cloud.call('GET /users', { token: signed })).status, 403)
    assert.equal((await cloud.call('GET /auth/projects', { token: signed })).status, 403)
    assert.equal((await cloud.call('POST /auth/tokens', { body: again })).status, 403)
    const looked = await cloud.call('GET /auth/tokens', { token, headers: { 'x-subject-token': signed } })
    assert.equal(looked.body.token.user.id, me, 'a service may look at it')
  }
})

test('delegations stay in their project and reach no other way in', async t => {
  const cloud = await identityCloud(t)
  const { call } = cloud
  const token = await cloud.admin()
  const me = await userOf(cloud, token)
  const { project: other } = (await call('POST /projects', { token, body: { project: { name: 'other' } } })).body
  const admin = (await call('GET /roles?name=admin', { token })).body.roles[0].id
  await call(`PUT /projects/${other.id}/users/${me}/roles/${admin}`, { token })
  const { body } = await call(`POST /users/${me}/application_credentials`, {
    token,
    body: { application_credential: { name: 'free', unrestricted: true } },
  })
  const { id, secret } = body.application_credential
  const appCred = (more: object = {}, scope?: object) =>
    call('POST /auth/tokens', {
      body: {
        auth: {
          identity: { methods: ['application_credential'], application_credential: { id, secret, ...more } },
          ...(scope && { scope }),
        },
      },
    })
  const bound = (await appCred()).headers.get('x-subject-token')!
  const { user: demo } = (await call('GET /users?name=demo', { token })).body.users.map((user: object) => ({ user }))[0]
  const impostor = await appCred({ user: { id: demo.id } })
  assert.ok(impostor.status >= 400 || impostor.body.token.user.id === me, 'as somebody else (CVE-2026-42998)')
  for (const scope of [ADMIN_SCOPE, { project: { id: other.id } }, { domain: { id: 'default' } }, { system: { all: true } }]) {
    assert.equal((await appCred({}, scope)).status, 401)
    const auth = { identity: { methods: ['token'], token: { id: bound } }, scope }
    assert.equal((await call('POST /auth/tokens', { body: { auth } })).status, 403, JSON.stringify(scope))
  }
  const trust = {
    trustor_user_id: me,
    trustee_user_id: demo.id,
    impersonation: true,
    project_id: other.id,
    roles: [{ name: 'admin' }],
  }
  assert.equal((await call('POST /OS-TRUST/trusts', { token: bound, body: { trust } })).status, 403, 'a trust (CVE-2026-43000)')
  assert.equal((await call('GET /OS-TRUST/trusts', { token: bound })).status, 403)
  const elsewhere = { type: 'ec2', project_id: other.id, user_id: me, blob: JSON.stringify({ access: 'a', secret: 's' }) }
  assert.equal((await call('POST /credentials', { token: bound, body: { credential: elsewhere } })).status, 403)
  assert.equal((await call(`POST /users/${me}/credentials/OS-EC2`, { token: bound, body: { tenant_id: other.id } })).status, 403)
  assert.equal((await call(`DELETE /users/${me}/tokens`, { token: bound })).status, 403)

  // One that was bound to this project, and whose row now names another: the delegation itself is looked at.
  const mine = await call(`POST /users/${me}/credentials/OS-EC2`, { token: bound, body: { tenant_id: cloud.adminProjectId } })
  assert.equal(mine.status, 201, JSON.stringify(mine.body))
  const { access, secret: key } = mine.body.credential
  const row = createHash('sha256').update(access).digest('hex')
  await cloud.db.tx(tx => tx.updateTable('keystone.credentials').set({ project_id: other.id }).where('id', '=', row).execute())
  const params = { SignatureVersion: '0', Action: 'x', Timestamp: new Date().toISOString() }
  const signature = createHmac('sha1', key).update(`x${params.Timestamp}`).digest('base64')
  assert.equal((await call('POST /ec2tokens', { token, body: { credentials: { access, signature, params } } })).status, 401)
})

test('what a caller sends is not taken for what is known', async t => {
  const cloud = await identityCloud(t)
  const { call } = cloud
  const token = await cloud.admin()
  const demo = await cloud.login('demo', PASSWORD)
  const me = await userOf(cloud, demo)
  const admin = await userOf(cloud, token)
  const forged = { target: { user: { id: me, domain_id: 'default' }, credential: { user_id: me } }, user_id: me, is_admin: 1 }
  assert.equal((await call(`PATCH /users/${admin}`, { token: demo, body: { user: { name: 'x' }, ...forged } })).status, 403)
  assert.equal((await call(`GET /users/${admin}?user_id=${me}&target.user.id=${me}`, { token: demo })).status, 403)
  assert.equal((await call(`GET /users/${admin}/application_credentials?user_id=${me}`, { token: demo })).status, 403)
  const credential = { type: 't', blob: 'b', user_id: admin }
  assert.equal((await call('POST /credentials', { token: demo, body: { credential, ...forged } })).status, 403)
  assert.equal((await call('GET /projects/default', { token: demo })).status, 403, 'a domain as a project')
})

test("all of a user's tokens end at the user's word", async t => {
  const cloud = await identityCloud(t)
  const tokens = await Promise.all([1, 2].map(() => cloud.login('demo', PASSWORD)))
  const me = await userOf(cloud, tokens[0]!)
  const admin = await cloud.admin()
  assert.equal((await cloud.call(`DELETE /users/${await userOf(cloud, admin)}/tokens`, { token: tokens[0]! })).status, 403)
  assert.equal((await cloud.call(`DELETE /users/${'0'.repeat(32)}/tokens`, { token: admin })).status, 404)
  assert.equal((await cloud.call(`DELETE /users/${me}/tokens`, { token: tokens[0]! })).status, 204)
  for (const token of tokens) assert.equal((await cloud.call('GET /auth/projects', { token })).status, 401)
  assert.equal((await cloud.call('GET /auth/projects', { token: admin })).status, 200)
  assert.ok(await cloud.login('demo', PASSWORD))
})
