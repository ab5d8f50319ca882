// An agent to be killed: opens the driver over a data folder and does one verb. Prints a line when it begins and when it is done.
import { rm } from 'node:fs/promises'
import type { GuestSpec } from '../../../spec.ts'
import { testGuestDisk } from '../../testguest.ts'
import { qemuDriver } from './index.ts'
import { quiet } from './testing.ts'

const [dataDir, verb, text] = process.argv.slice(2) as [string, 'ensure' | 'destroy' | 'suspend' | 'resume', string]
const spec = JSON.parse(text) as GuestSpec
const images = async () =>
  (async function* () {
    yield testGuestDisk()
  })()
const driver = qemuDriver({ dataDir, images, log: quiet, accel: 'tcg' })
await driver.open()
if (verb === 'ensure') await rm(`${dataDir}/_base`, { recursive: true, force: true })
console.log('begin')
if (verb === 'ensure') await driver.ensure(spec)
if (verb === 'destroy') await driver.destroy(spec.id)
if (verb === 'suspend') await driver.power(spec.id, 'suspended')
if (verb === 'resume') await driver.power(spec.id, 'running')
console.log('done')
await driver.close()
