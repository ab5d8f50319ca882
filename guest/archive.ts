/**
 * Debian packages for the guest, by apt itself but apart from the host's own state: lists, cache and an empty status live in a folder of
 * ours, so that no root is needed, nothing of the host changes, and a host with another Debian release builds the same guest. apt checks
 * the archive's signatures and every file's hash.
 */
import { globSync } from 'node:fs'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { run } from '#host/run.ts'

/** The release that the guest is made of, whatever the host runs. */
export const RELEASE = 'bookworm'
const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg'
const DEFAULT_MIRROR = 'http://deb.debian.org/debian'
const DEFAULT_SECURITY_MIRROR = 'http://deb.debian.org/debian-security'

export interface Archive {
  folder: string
  /** Environment that makes apt use our folder. */
  env: Record<string, string>
}

/** The mirrors that this host is set up to use, so that a site with its own mirror builds from that. */
async function mirrors(): Promise<{ main: string; security: string }> {
  const { stdout } = await run(['apt-get', 'indextargets', '--format', '$(REPO_URI) $(ORIGIN)', 'Created-By: Packages'])
  const debian = stdout.split('\n').flatMap(line => (line.endsWith(' Debian') ? [line.split(' ')[0]!.replace(/\/$/, '')] : []))
  return {
    main: debian.find(uri => !uri.endsWith('-security')) ?? DEFAULT_MIRROR,
    security: debian.find(uri => uri.endsWith('-security')) ?? DEFAULT_SECURITY_MIRROR,
  }
}

/**
 * Makes apt's folder and reads the package lists.
 * @throws RunError with apt's words when an archive cannot be reached or its signature is wrong.
 */
export async function archiveOpen(folder: string, signal?: AbortSignal): Promise<Archive> {
  for (const part of ['lists/partial', 'cache/archives/partial', 'debs']) await mkdir(join(folder, part), { recursive: true })
  const { main, security } = await mirrors()
  await writeFile(join(folder, 'status'), '')
  await writeFile(
    join(folder, 'sources.list'),
    `deb [signed-by=${KEYRING}] ${main} ${RELEASE} main\ndeb [signed-by=${KEYRING}] ${security} ${RELEASE}-security main\n`,
  )
  await writeFile(
    join(folder, 'apt.conf'),
    [
      `Dir::State "${folder}";`,
      `Dir::State::lists "${folder}/lists";`,
      `Dir::State::status "${folder}/status";`,
      `Dir::Cache "${folder}/cache";`,
      `Dir::Etc::sourcelist "${folder}/sources.list";`,
      'Dir::Etc::sourceparts "/dev/null";',
      'Acquire::Languages "none";',
      'APT::Architecture "amd64";',
      'APT::Architectures { "amd64"; };',
      // As root, apt would download as user _apt, who may not write here.
      'APT::Sandbox::User "";',
      '',
    ].join('\n'),
  )
  const archive = { folder, env: { APT_CONFIG: join(folder, 'apt.conf') } }
  await run(['apt-get', '-q', 'update', '-o', 'APT::Update::Error-Mode=any'], { env: archive.env, timeoutMs: 300_000, signal })
  return archive
}

export interface Deb {
  package: string
  version: string
  sha256: string
}

/** The packages that `names` need, themselves included, as apt would install them on an empty system. */
export async function archiveClosure(archive: Archive, names: readonly string[]): Promise<Deb[]> {
  const { stdout } = await run(['apt-get', 'install', '-qq', '-y', '--no-install-recommends', '--print-uris', ...names], {
    env: archive.env,
    timeoutMs: 120_000,
  })
  return parsePrintUris(stdout)
}

/** Reads lines like `'http://…/jq_1.6-2_amd64.deb' jq_1.6-2_amd64.deb 64432 SHA256:…`; a colon in a version is written %3a. */
export function parsePrintUris(text: string): Deb[] {
  return text
    .split('\n')
    .filter(line => line.startsWith("'"))
    .map(line => {
      const [, file = '', , hash = ''] = line.split(' ')
      const [name = '', version = ''] = file.split('_')
      return { package: name, version: decodeURIComponent(version), sha256: hash.replace('SHA256:', '') }
    })
}

/** Downloads packages and unpacks them, one over the other, into `into`. */
export async function archiveUnpack(archive: Archive, debs: readonly Deb[], into: string, signal?: AbortSignal): Promise<void> {
  const folder = join(archive.folder, 'debs')
  await run(['apt-get', 'download', '-q', ...debs.map(deb => `${deb.package}=${deb.version}`)], {
    cwd: folder,
    env: archive.env,
    timeoutMs: 600_000,
    signal,
  })
  await mkdir(into, { recursive: true })
  const paths = debs.map(deb => join(folder, `${deb.package}_${deb.version.replaceAll(':', '%3a')}`))
  // Two at a time: unpacking is mostly decompression.
  const worker = async () => {
    for (let path = paths.shift(); path !== undefined; path = paths.shift()) await unpack(path, into, signal)
  }
  await Promise.all([worker(), worker()])
}

async function unpack(prefix: string, into: string, signal?: AbortSignal): Promise<void> {
  const [file] = globSync(`${prefix}_*.deb`)
  if (file === undefined) throw new Error(`apt-get downloaded no ${prefix}_*.deb`)
  await run(['dpkg-deb', '-x', file, into], { timeoutMs: 120_000, signal })
}
