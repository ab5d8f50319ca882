/** `nubo doctor`: what this host can do, what that means for servers on it, and the command that mends each thing. Changes nothing. */
import { homedir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { HOST_PROGRAMS, installCommand } from '#host/programs.ts'
import type { Finding } from './doctor/finding.ts'
import { kernelFindings } from './doctor/kernel.ts'
import { machineFindings } from './doctor/machine.ts'
import { softwareFindings } from './doctor/software.ts'

export const HELP = `Usage: nubo doctor [--data DIR] [--listen ADDR:PORT] [--json]

Looks at this host without changing it: what works (most of it is really tried), what is missing, what that means,
and the command that mends it. Exit code 1 when something is missing without which no real server can run.
\`nubo up\` installs missing packages by itself, and \`nubo up --simulate\` needs none of this.

  --data DIR          the data folder whose disk to look at
  --listen ADDR:PORT  the address that Nubo would listen on (127.0.0.1:5000)
  --json              one JSON array of findings
`

const MARK = { ok: 'ok     ', limited: 'limited', missing: 'MISSING' }

/** The findings as lines for people, group by group. */
export function report(all: readonly Finding[]): string {
  const width = Math.max(...all.map(({ name }) => name.length))
  const lines: string[] = []
  for (const [group, members] of Object.entries(Object.groupBy(all, found => found.group))) {
    lines.push(group)
    for (const { name, state, seen, consequence, mend } of members!) {
      lines.push(`  ${MARK[state]}  ${name.padEnd(width)}  ${seen}`)
      if (consequence) lines.push(`${' '.repeat(width + 13)}so: ${consequence}`)
      if (mend) lines.push(`${' '.repeat(width + 13)}to mend: ${mend}`)
    }
    lines.push('')
  }
  const missing = all.filter(({ state }) => state === 'missing')
  const lacking = new Set(all.filter(({ state }) => state !== 'ok').map(({ name }) => name))
  const packages = HOST_PROGRAMS.filter(row => lacking.has(row.program) && ['host', 'image'].includes(row.purpose)).map(
    row => row.package,
  )
  if (packages.length > 0) lines.push(`All packages at once: ${installCommand([...new Set(packages)].sort())}`)
  const kvm = all.some(({ name, state }) => name === 'KVM' && state === 'ok')
  lines.push(
    missing.length > 0
      ? `This host cannot run real servers yet: ${missing.map(({ name }) => name).join(', ')}.`
      : `This host can run real servers, ${kvm ? 'with KVM' : 'emulated (no KVM)'}.`,
  )
  return `${lines.join('\n')}\n`
}

export async function run(argv: string[]): Promise<number> {
  const { values } = parseArgs({
    args: argv,
    options: {
      data: { type: 'string' },
      listen: { type: 'string', default: '127.0.0.1:5000' },
      json: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h' },
    },
  })
  if (values.help) {
    process.stdout.write(HELP)
    return 0
  }
  const usual = process.getuid?.() === 0 ? '/var/lib/nubo' : join(homedir(), '.local/share/nubo')
  const all = [
    ...(await machineFindings(resolve(values.data ?? usual))),
    ...(await kernelFindings()),
    ...(await softwareFindings(values.listen)),
  ]
  process.stdout.write(values.json ? `${JSON.stringify(all, null, 2)}\n` : report(all))
  return all.some(({ state }) => state === 'missing') ? 1 : 0
}
