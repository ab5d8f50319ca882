/** Installs the programs of the host that Nubo uses; which these are stands in host/programs.ts. */
import { HOST_PROGRAMS, type HostProgram, installCommand, type Purpose, programPath } from '#host/programs.ts'
import { run } from '#host/run.ts'

/** The rows of the table that are not on this host. */
export function missingPrograms(purposes: readonly Purpose[]): HostProgram[] {
  return HOST_PROGRAMS.filter(row => purposes.includes(row.purpose) && programPath(row.program) === undefined)
}

/**
 * Installs the packages of all missing programs by apt. Waits for another dpkg that is running; reads the package lists anew only when
 * the first try fails (a fresh machine has none, an old one has stale ones).
 * @param say prints one line of progress
 * @throws Error with the command to type, when we are not root or there is no apt; RunError with apt's words, when apt fails.
 */
export async function installPrograms(purposes: readonly Purpose[], say: (line: string) => void): Promise<void> {
  const missing = missingPrograms(purposes)
  if (missing.length === 0) return
  const packages = [...new Set(missing.map(row => row.package))].sort()
  const uses = [...new Set(missing.map(row => row.use))].join('; ')
  if (programPath('apt-get') === undefined || process.getuid?.() !== 0) {
    throw new Error(
      `this host lacks ${missing.map(row => row.program).join(', ')} (for ${uses}). Install them: ${installCommand(packages)}`,
    )
  }
  say(`installing ${packages.length} Debian packages: ${packages.join(', ')}`)
  try {
    await apt(['install', '--no-install-recommends', ...packages])
  } catch {
    // Why it failed does not matter yet: with fresh lists it works, or fails again with words that are then shown.
    say('reading the package lists')
    await apt(['update'])
    await apt(['install', '--no-install-recommends', ...packages])
  }
  const left = missingPrograms(purposes)
  if (left.length > 0)
    throw new Error(`apt-get installed ${packages.join(', ')}, but still not here: ${left.map(row => row.program).join(', ')}`)
}

/** Services that packages bring (a system-wide dnsmasq, radvd) are not started by the installation: Nubo starts its own. */
async function apt(args: string[]): Promise<void> {
  await run(['apt-get', '-q', '-y', '-o', 'DPkg::Lock::Timeout=600', '-o', 'Dpkg::Use-Pty=0', ...args], {
    timeoutMs: 20 * 60_000,
    env: { DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1' },
  })
}
