/** Whether an address can be listened on, and who is in the way. */
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { run } from '#host/run.ts'

/** A command line is shown so far. */
const SHOWN = 100

/** Who listens on a port, as `ss` tells root: `process 7 (nginx -g daemon off)`; undefined when it cannot be known. */
async function listener(port: number): Promise<string | undefined> {
  const { stdout } = await run(['ss', '-Hltnp', `sport = :${port}`]).catch(() => ({ stdout: '' }))
  const [, name, pid] = /users:\(\("([^"]+)",pid=(\d+)/.exec(stdout) ?? []
  if (pid === undefined) return undefined
  const words = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')
  return `process ${pid} (${words.replaceAll('\0', ' ').trim().slice(0, SHOWN) || name})`
}

/** Why nobody can listen there now, in a few words; undefined when it can be done. */
export async function portTrouble(host: string, port: number): Promise<string | undefined> {
  const server = createServer()
  server.listen(port, host)
  try {
    await once(server, 'listening')
    server.close()
    await once(server, 'close')
    return undefined
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    if (code === 'EADDRNOTAVAIL') return 'this machine has no such address'
    if (code !== 'EADDRINUSE') return message
    const who = await listener(port)
    return `in use${who ? ` by ${who}` : ''}`
  }
}

/** `[::1]:5000` → where to listen. The text has been checked by the configuration's schema. */
export function addressOf(listen: string): { host: string; port: number } {
  const colon = listen.lastIndexOf(':')
  return { host: listen.slice(0, colon).replace(/^\[|\]$/g, ''), port: Number(listen.slice(colon + 1)) }
}

/** Throws when nobody can listen there, with who is in the way and what to do. */
export async function portEnsure({ host, port }: { host: string; port: number }): Promise<void> {
  const trouble = await portTrouble(host, port)
  if (trouble) throw new Error(`cannot listen on ${host}:${port}: ${trouble}; choose another --listen ADDRESS:PORT`)
}
