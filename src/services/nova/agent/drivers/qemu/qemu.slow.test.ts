// The contract on real guests under TCG. Needs root and the host's programs; skipped without.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { driverContract } from '../../driver.contract.ts'
import { scopeOf, uidRange } from './host.ts'
import { qemuPlace, unable } from './testing.ts'

const why = unable()
if (why === undefined) driverContract('qemu', qemuPlace)
else test('driver contract: qemu', { skip: why }, () => undefined)

test('guest users are where nobody else is', () => {
  const [first, count] = uidRange(scopeOf('/var/lib/nubo/nova'))
  assert.ok(first >= 1_900_000_000 && first + count < 2 ** 31)
  assert.notDeepEqual(uidRange(scopeOf('/a')), uidRange(scopeOf('/b')))
})
