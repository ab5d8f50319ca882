/** What stands apart from the services, so that it can be read without their code, says the same as they do. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseConfig } from '#kit/config.ts'
import { routerFor } from '#kit/http/app.ts'
import { corsSettings } from '#kit/http/cors.ts'
import { CATALOG } from './catalog.ts'
import { SERVICES } from './services.ts'
import { SETTINGS } from './settings.ts'

test('the catalog has every service, in their order', () => {
  assert.deepEqual(
    CATALOG.map(({ name, type }) => ({ name, type })),
    SERVICES.map(({ name, type }) => ({ name, type })),
  )
})

test("all settings are the kit's and those of every service", () => {
  assert.deepEqual(
    SETTINGS.map(section => section.name),
    [corsSettings.name, ...SERVICES.map(service => service.settings!.name)],
  )
  for (const { settings } of SERVICES) assert.ok(SETTINGS.includes(settings!))
})

test('no two routes of a service answer the same', () => {
  for (const service of SERVICES) routerFor(service)
})

test('a section that is not given is as one that is given empty', () => {
  for (const section of SETTINGS) {
    const [absent, empty] = ['', `${section.name}: {}`].map(text => parseConfig(text, 'n.yaml', SETTINGS).of(section))
    assert.deepEqual(absent, empty, section.name)
  }
})
