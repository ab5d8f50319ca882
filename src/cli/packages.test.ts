import assert from 'node:assert/strict'
import { test } from 'node:test'
import { HOST_PROGRAMS, packageOf, programPath } from '#host/programs.ts'
import { missingPrograms } from './packages.ts'

test('programs are found in PATH and in the folders of the system, files by their path', () => {
  assert.match(programPath('sh') ?? '', /\/sh$/)
  assert.equal(programPath('/etc/hostname-that-is-not'), undefined)
  assert.equal(programPath('no-such-program-here'), undefined)
  assert.equal(programPath('/etc/passwd'), '/etc/passwd')
})

test('what is missing is a row of the table whose program is not here', () => {
  for (const row of missingPrograms(['host', 'image', 'test', 'option'])) assert.equal(programPath(row.program), undefined)
  assert.deepEqual(missingPrograms([]), [])
})

test('one program comes in one package', () => {
  for (const row of HOST_PROGRAMS) assert.equal(packageOf(row.program), row.package)
})
