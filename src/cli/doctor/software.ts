/** The programs of the host, with their versions, and the ports that Nubo wants to listen on. */
import { once } from 'node:events'
import { createServer } from 'node:net'
import { HOST_PROGRAMS, type HostProgram, installCommand, programPath } from '#host/programs.ts'
import { run } from '#host/run.ts'
import { type Finding, findings } from './finding.ts'

/** Without these no server runs at all. */
const VITAL = new Set(['qemu-system-x86_64', 'qemu-img', 'ip', 'nft', 'dnsmasq'])

/** The first number with a dot in what a program says of its version; programs print it to either stream, and some exit with 1. */
export function versionIn(text: string): string {
  return /\d+(?:\.\d+)+[\w.+~-]*/.exec(text)?.[0] ?? text.trim().split('\n')[0]!.slice(0, 40)
}

async function program(row: HostProgram): Promise<Finding> {
  const { ok, limited, missing } = findings('Programs')
  const path = programPath(row.program)
  const optional = row.purpose === 'option' || row.purpose === 'test'
  if (path === undefined) {
    const lack = VITAL.has(row.program) ? missing : limited
    return lack(
      row.program,
      optional ? 'not here (optional)' : 'not here',
      `without it: no ${row.use}`,
      installCommand([row.package]),
    )
  }
  if (row.version === undefined) return ok(row.program, path)
  const { stdout, stderr } = await run([path, ...row.version], { codes: [0, 1], timeoutMs: 10_000 }).catch((error: Error) => ({
    stdout: '',
    stderr: error.message,
  }))
  return ok(row.program, versionIn(stdout || stderr))
}

/** Who listens there, as `ss` tells root; undefined when it cannot be known. */
async function listener(port: number): Promise<string | undefined> {
  const { stdout } = await run(['ss', '-Hltnp', `sport = :${port}`]).catch(() => ({ stdout: '' }))
  return /users:\(\("([^"]+)",pid=(\d+)/.exec(stdout)?.slice(1, 3).join(', process ')
}

async function port(address: string, number: number): Promise<Finding> {
  const { ok, limited } = findings('Ports')
  const name = `${address}:${number}`
  const server = createServer()
  server.listen(number, address)
  try {
    await once(server, 'listening')
    server.close()
    return ok(name, 'free')
  } catch (error) {
    const who = await listener(number)
    const seen =
      (error as NodeJS.ErrnoException).code === 'EADDRINUSE' ? `in use${who ? ` by ${who}` : ''}` : (error as Error).message
    return limited(name, seen, 'a second Nubo cannot listen there (fine if the first one does)', 'nubo up --listen ADDRESS:PORT')
  }
}

/** @param listen address and port that `up` would use */
export async function softwareFindings(listen: string): Promise<Finding[]> {
  const rows = [...new Map(HOST_PROGRAMS.map(row => [row.program, row])).values()]
  const programs: Finding[] = []
  for (const row of rows) programs.push(await program(row))
  const colon = listen.lastIndexOf(':')
  return [...programs, await port(listen.slice(0, colon), Number(listen.slice(colon + 1)))]
}
