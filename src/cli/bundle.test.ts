import assert from 'node:assert/strict'
import { globSync, readFileSync } from 'node:fs'
import { builtinModules } from 'node:module'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { EXTERNAL } from './bundle.ts'

const SRC = fileURLToPath(new URL('..', import.meta.url))

test('packages that are loaded when first needed are left out of the bundle', () => {
  const found: string[] = []
  for (const file of globSync('**/*.ts', { cwd: SRC, exclude: name => name.endsWith('.test.ts') })) {
    for (const [, name] of readFileSync(join(SRC, file), 'utf8').matchAll(/\bawait import\('([^'.#][^']*)'\)/g)) {
      if (builtinModules.includes(name!.replace(/^node:/, ''))) continue
      found.push(name!)
      assert.ok(EXTERNAL.includes(name!), `${file} loads ${name}, which cli/bundle.ts does not leave out`)
    }
  }
  assert.ok(found.includes('@peculiar/x509'))
})
