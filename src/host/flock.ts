/**
 * Locks that the kernel lets go of when their last holder ends, however it ends. A lock belongs to the open file: a child that is given the
 * descriptor holds it too, and one that is not given it does not.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'

/**
 * Locks an open file for itself alone. `options` of flock(1): `-n` at once or not at all, `-w SECONDS` after so long a wait.
 * Resolves to whether it is ours. Throws Error with flock's words when it could not try.
 */
export async function flock(fd: number, options: readonly string[]): Promise<boolean> {
  const child = spawn('flock', ['-x', ...options, '3'], { stdio: ['ignore', 'ignore', 'pipe', fd] })
  const ended = once(child, 'close')
  const words = text(child.stderr!)
  const [code] = (await ended) as [number | null]
  if (code === 0 || code === 1) return code === 0
  throw new Error(`flock: ${(await words).trim() || `exit code ${code}`}`)
}
