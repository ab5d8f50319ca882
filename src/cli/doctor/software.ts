/** The programs of the host, with their versions, and the ports that Nubo wants to listen on. */
import { HOST_PROGRAMS, type HostProgram, installCommand, programPath } from '#host/programs.ts'
import { run } from '#host/run.ts'
import { portTrouble } from '../instance/port.ts'
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

async function port(address: string, number: number): Promise<Finding> {
  const { ok, limited } = findings('Ports')
  const name = `${address}:${number}`
  const seen = await portTrouble(address.replace(/^\[|\]$/g, ''), number)
  if (seen === undefined) return ok(name, 'free')
  return limited(name, seen, 'a second Nubo cannot listen there (fine if the first one does)', 'nubo up --listen ADDRESS:PORT')
}

/** @param listen address and port that `up` would use */
export async function softwareFindings(listen: string): Promise<Finding[]> {
  const rows = [...new Map(HOST_PROGRAMS.map(row => [row.program, row])).values()]
  const programs: Finding[] = []
  for (const row of rows) programs.push(await program(row))
  const colon = listen.lastIndexOf(':')
  return [...programs, await port(listen.slice(0, colon), Number(listen.slice(colon + 1)))]
}
