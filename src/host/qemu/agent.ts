// The guest agent (qemu-ga) over its virtio-serial channel: QMP's JSON without greeting. The channel has no notion of a connection, so answers
// to a question of an earlier client may still be in it: guest-sync-delimited marks the place (the answer comes after a byte 0xff). The far end
// belongs to the tenant: everything it says is bounded and nothing of it is trusted.
import { randomInt } from 'node:crypto'
import { connectWhenThere, lineSplitter, QmpError } from './qmp.ts'

const MAX_LINE = 1 << 20

/** What a command on the agent's channel may take, in milliseconds. */
export interface AgentPatience {
  /** Until the agent shows that it is there; 3 s. */
  syncMs?: number
  /** Until the command's answer; 10 s. */
  timeoutMs?: number
}

/**
 * Runs one command of the guest agent over a connection of its own.
 * @throws QmpError when the agent refuses, Error when no agent answers in time.
 */
export async function guestAgent<T = unknown>(
  socketPath: string,
  command: string,
  args?: Record<string, unknown>,
  { syncMs = 3000, timeoutMs = 10_000 }: AgentPatience = {},
): Promise<T> {
  const socket = await connectWhenThere(socketPath, { timeoutMs: syncMs })
  let onLine: (message: Record<string, unknown>) => void = () => undefined
  const split = lineSplitter(line => {
    // Noise from before the mark may be cut JSON: only what parses counts, and only what was asked for is believed.
    let message: unknown
    try {
      message = JSON.parse(line.slice(line.lastIndexOf('\ufffd') + 1))
    } catch {
      return
    }
    if (typeof message === 'object' && message !== null) onLine(message as Record<string, unknown>)
  }, MAX_LINE)

  const answer = <A>(pick: (message: Record<string, unknown>) => boolean, ms: number, words: string) =>
    new Promise<A>((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(words)), ms)
      socket.once('close', () => {
        clearTimeout(timer)
        reject(new Error(`${words} (the channel was closed)`))
      })
      onLine = message => {
        if (!pick(message)) return
        clearTimeout(timer)
        onLine = () => undefined
        const error = message.error as { class: string; desc: string } | undefined
        if (error) reject(new QmpError(command, String(error.class), String(error.desc)))
        else resolve(message.return as A)
      }
    })

  socket.on('error', () => undefined)
  socket.on('data', chunk => {
    try {
      split(chunk)
    } catch (error) {
      socket.destroy(error as Error)
    }
  })
  try {
    const id = randomInt(1, 2 ** 31)
    const synced = answer<number>(m => m.return === id, syncMs, 'the guest agent does not answer')
    socket.write(
      Buffer.concat([
        Buffer.of(0xff),
        Buffer.from(`${JSON.stringify({ execute: 'guest-sync-delimited', arguments: { id } })}\n`),
      ]),
    )
    await synced
    const answered = answer<T>(m => 'return' in m || 'error' in m, timeoutMs, `${command}: the guest agent did not answer`)
    socket.write(`${JSON.stringify({ execute: command, ...(args && { arguments: args }) })}\n`)
    return await answered
  } finally {
    socket.destroy()
  }
}
