// Kernel settings of a network namespace.
import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { type RunPlace, run } from '../run.ts'

/**
 * Makes settings so, writing only those that differ. Keys are paths below /proc/sys with slashes, so that an interface name may hold a dot:
 * 'net/ipv6/conf/eth1.5/disable_ipv6'.
 * @throws RunError naming the setting that the kernel lacks or refuses.
 */
export async function sysctlEnsure(place: RunPlace, wanted: Record<string, string | number>): Promise<void> {
  // A kernel booted without IPv6 has none of its settings, and needs none.
  const keys = Object.keys(wanted).filter(key => !key.startsWith('net/ipv6/') || hasIpv6())
  if (keys.length === 0) return
  const paths = keys.map(key => `/proc/sys/${key}`)
  // In our own namespace it takes no process to read them.
  const have =
    place.netns === undefined
      ? await Promise.all(paths.map(async path => (await readFile(path, 'utf8')).trimEnd()))
      : (await run(['cat', ...paths], place)).stdout.trimEnd().split('\n')
  const differing = keys.filter((key, i) => have[i]?.replaceAll('\t', ' ') !== String(wanted[key]))
  if (differing.length > 0) await run(['sysctl', '-q', '-w', ...differing.map(key => `${key}=${wanted[key]}`)], place)
}

/** Whether this kernel has IPv6. */
export const hasIpv6 = (): boolean => existsSync('/proc/sys/net/ipv6')
