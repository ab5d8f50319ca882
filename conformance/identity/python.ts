/** Runs the Python programs of this folder with Debian's Python, whatever other one stands first in PATH. */
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { createInterface } from 'node:readline'
import type { TestContext } from 'node:test'
import { fileURLToPath } from 'node:url'
import { run } from '#host/run.ts'

const PYTHON = '/usr/bin/python3'
const MODULES = '/usr/lib/python3/dist-packages'

/** What a test that needs these modules gives as `skip`: false where all are installed. */
export function lacks(...modules: string[]): string | false {
  const missing = modules.filter(module => !existsSync(`${MODULES}/${module}`))
  return missing.length > 0 && `not installed: python3-${missing.join(', python3-')}`
}

/** Gives a program of this folder a request and returns its answer. Throws with its standard error. */
export async function python<Answer>(program: string, request: unknown): Promise<Answer> {
  const file = fileURLToPath(new URL(program, import.meta.url))
  const { stdout } = await run([PYTHON, file], { input: JSON.stringify(request), timeoutMs: 60_000 })
  return JSON.parse(stdout) as Answer
}

/** A program of this folder that answers line by line. */
export interface Talk {
  ask<Answer>(request: unknown): Promise<Answer>
}

/** Starts a program that reads `setup` and then answers each request; it ends with the test. An answer that takes a minute is an error. */
export function talk(t: TestContext, program: string, setup: unknown): Talk {
  const file = fileURLToPath(new URL(program, import.meta.url))
  const child = spawn(PYTHON, [file], { stdio: ['pipe', 'pipe', 'pipe'] })
  const ended = new Promise<void>(resolve => child.once('close', () => resolve()))
  t.after(async () => {
    child.stdin.end()
    await ended
  })
  let said = ''
  child.stderr.on('data', (part: Buffer) => {
    said = (said + part).slice(-8192)
  })
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const tell = (value: unknown) => child.stdin.write(`${JSON.stringify(value)}\n`)
  tell(setup)
  return {
    async ask<Answer>(request: unknown) {
      tell(request)
      const timer = setTimeout(() => child.kill(), 60_000)
      const { value, done } = await lines.next()
      clearTimeout(timer)
      if (done) throw new Error(`${program} ended: ${said}`)
      return JSON.parse(value as string) as Answer
    },
  }
}
