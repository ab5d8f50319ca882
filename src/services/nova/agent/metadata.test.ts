import assert from 'node:assert/strict'
import { test } from 'node:test'
import { notFound, unavailable } from '#kit/fault.ts'
import { answer, guestMetadata } from './metadata.ts'

const said = {
  files: {
    'openstack/latest/meta_data.json': Buffer.from('{"uuid":"1"}').toString('base64'),
    'openstack/latest/user_data': Buffer.from('#!/bin/sh').toString('base64'),
    'openstack/2015-10-15/meta_data.json': '',
  },
  ec2: {
    'instance-id': 'i-1',
    placement: { 'availability-zone': 'nova' },
    'public-keys': { '0=k': { 'openssh-key': 'ssh-rsa A' } },
  },
  userData: Buffer.from('#!/bin/sh').toString('base64'),
}
const body = (path: string): string => {
  const { status, body } = answer(said, path)
  return status === 200 ? body.toString() : String(status)
}

test('both trees are answered, folders as lists', () => {
  assert.match(body('/'), /^1\.0\n.*latest$/s)
  assert.equal(body('/openstack'), 'latest\n2015-10-15')
  assert.equal(body('/openstack/latest/'), 'meta_data.json\nuser_data')
  assert.equal(body('/openstack/latest/meta_data.json'), '{"uuid":"1"}')
  assert.equal(body('/latest/'), 'meta-data/\nuser-data')
  assert.equal(body('/latest/meta-data/'), 'instance-id\nplacement/\npublic-keys/')
  assert.equal(body('/2009-04-04/meta-data/placement/availability-zone'), 'nova')
  assert.equal(body('/latest/meta-data/public-keys/'), '0=k')
  assert.equal(body('/latest/meta-data/public-keys/0/openssh-key'), 'ssh-rsa A')
  assert.equal(body('/latest/user-data'), '#!/bin/sh')
  for (const path of [
    '/1999-01-01',
    '/openstack/latest/nothing',
    '/latest/meta-data/instance-id/x',
    '/latest/meta-data/public-keys/1',
    '/a/../..',
  ]) {
    assert.equal(body(path), '404', path)
  }
})

test('the controller is asked once for many requests, and what it said last is good while it is away', async () => {
  let asked = 0
  let away: Error | undefined
  const source = guestMetadata({
    ask: (async () => {
      asked++
      if (away) throw away
      return said
    }) as never,
  })
  const get = (deviceId: string) => source({ deviceId }, { method: 'GET', path: '/latest/meta-data/instance-id' })
  await Promise.all(Array.from({ length: 20 }, () => get('a')))
  assert.equal(asked, 1)
  assert.equal((await source({ deviceId: 'a' }, { method: 'DELETE', path: '/' })).status, 405)
  away = unavailable('no controller')
  await assert.rejects(get('b'), /no controller/)
  away = notFound('not here')
  assert.equal((await get('c')).status, 404)
})
