/** `nubo image`: builds the small guest image and prints where its files are. */
import { homedir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { guestEnsure } from '../../guest/build.ts'
import { installPrograms } from './packages.ts'

export const HELP = `Usage: nubo image [--folder DIR]

Builds the small guest image from Debian packages, unless it is there already, and prints where its files are.

  --folder DIR   where it is kept; by default /var/lib/nubo/guest for root, else ~/.cache/nubo/guest
`

/** Where built guest images are kept on this machine, for all instances. */
export const guestFolder = (): string =>
  process.getuid?.() === 0 ? '/var/lib/nubo/guest' : join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'nubo/guest')

export async function run(argv: string[]): Promise<number> {
  const { values } = parseArgs({ args: argv, options: { folder: { type: 'string' }, help: { type: 'boolean', short: 'h' } } })
  if (values.help) {
    process.stdout.write(HELP)
    return 0
  }
  const say = (line: string) => process.stderr.write(`nubo image: ${line}\n`)
  await installPrograms(['image'], say)
  const guest = await guestEnsure(resolve(values.folder ?? guestFolder()), say)
  console.log(`disk            ${guest.image}`)
  console.log(`kernel          ${guest.kernel}`)
  console.log(`initial ramdisk ${guest.initrd}`)
  console.log(`command line    ${guest.commandLine}`)
  return 0
}
