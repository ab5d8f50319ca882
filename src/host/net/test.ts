// Namespaces for tests that need root: named after the test, gone with it.
import type { TestContext } from 'node:test'
import { netnsDelete, netnsEnsure } from './netns.ts'

let made = 0

/** Makes a network namespace of its own for a test (removed with all in it afterwards) and gives its name. */
export async function testNetns(t: TestContext, word: string): Promise<string> {
  const name = `nubotest-${word}-${process.pid}-${++made}`
  await netnsEnsure({}, name)
  t.after(() => netnsDelete(name))
  return name
}
