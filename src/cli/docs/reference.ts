/** The texts of docs/reference, by file name. Made of declarations alone: equal declarations give equal texts. */
import { configReference } from '#kit/config.ts'
import type { Route } from '#kit/http/route.ts'
import { policySample } from '#kit/policy/index.ts'
import type { Service } from '#kit/service.ts'
import { SERVICES } from '../../roles/services.ts'
import { SETTINGS } from '../../roles/settings.ts'
import { COMMANDS, overview } from '../commands.ts'

const MADE = 'Made by `./nubo docs`; `./nubo test` fails where it is stale.'

/** Every file of the reference. */
export async function reference(): Promise<Map<string, string>> {
  const files = new Map<string, string>()
  files.set('README.md', contents())
  files.set('commands.md', await commands())
  files.set('configuration.md', `${configReference(SETTINGS)}\n${MADE}\n`)
  for (const service of SERVICES) {
    if (service.routes.length > 0) files.set(`api/${service.name}.md`, api(service))
    if (service.policies.length > 0) files.set(`policy/${service.name}.yaml`, policy(service))
  }
  return files
}

function contents(): string {
  const rows = SERVICES.map(({ name, type, routes, policies }) => {
    const apiLink = routes.length > 0 ? `[${routes.length} routes](api/${name}.md)` : 'not JSON: see its README'
    const policyLink = policies.length > 0 ? `[${policies.length} rules](policy/${name}.yaml)` : 'none'
    return `| ${name} | ${type} | ${apiLink} | ${policyLink} |`
  })
  return `# Reference

* [commands.md](commands.md): the command line
* [configuration.md](configuration.md): \`nubo.yaml\`

| service | type | API | policy |
|---|---|---|---|
${rows.join('\n')}

The files under \`policy/\` are samples: every rule with its default. What is to differ goes into \`policy.d/SERVICE.yaml\` (or, for all services,
\`policy.yaml\`) beside \`nubo.yaml\`; a running Nubo reads it again when it changes.

${MADE}
`
}

async function commands(): Promise<string> {
  const parts = [`# Commands\n\n${MADE}\n\n\`\`\`\n${overview()}\`\`\`\n`]
  for (const [name, { about, load }] of Object.entries(COMMANDS)) {
    if (about === undefined) continue
    const { HELP } = await load()
    if (HELP === undefined) throw new Error(`the command ${name} has no HELP`)
    parts.push(`## ${name}\n\n\`\`\`\n${HELP}\`\`\`\n`)
  }
  return parts.join('\n')
}

function api({ name, type, prefix, mounts, microversions, routes }: Service): string {
  const versions =
    microversions && ` Microversions ${microversions.major}.${microversions.min} to ${microversions.major}.${microversions.max}.`
  const below = mounts.filter(mount => !mount.includes(':')).map(mount => `\`${prefix}${mount}\``)
  const rows = [...routes].sort(byPath).map(route => {
    const what = route.action === undefined ? '' : ` \`{"${route.action}": …}\``
    const where = route.mounts === undefined ? '' : ` (at ${route.mounts.map(mount => `\`${prefix}${mount}\``).join(', ')})`
    const columns = [
      `${route.method} \`${route.path || '/'}\`${what}${where}`,
      ...(microversions ? [rangeOf(route, microversions.major)] : []),
      whoMay(route),
      String(route.success ?? 200),
    ]
    return `| ${columns.map(cell).join(' | ')} |`
  })
  const heads = ['request', ...(microversions ? ['microversions'] : []), 'policy', 'success']
  return `# ${name} (${type})

Paths are below ${below.join(', ')}.${versions ?? ''} Rules are those of [policy/${name}.yaml](../policy/${name}.yaml).

| ${heads.join(' | ')} |
|${heads.map(() => '---|').join('')}
${rows.join('\n')}

${MADE}
`
}

const byPath = (a: Route, b: Route): number =>
  compare(a.path, b.path) ||
  compare(a.method, b.method) ||
  compare(a.action ?? '', b.action ?? '') ||
  (a.since ?? 0) - (b.since ?? 0)

/** By code points, whatever the machine's locale. */
const compare = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0)

const cell = (text: string): string => text.replaceAll('|', '\\|')

function rangeOf({ since, until }: Route, major: number): string {
  if (since === undefined && until === undefined) return 'all'
  if (until === undefined) return `${major}.${since} and later`
  return since === undefined ? `up to ${major}.${until}` : `${major}.${since} to ${major}.${until}`
}

function whoMay({ policy, auth }: Route): string {
  if (policy !== null) return `\`${policy}\``
  if (auth === 'none') return 'anyone, without a token'
  return auth === 'optional' ? 'anyone; a token tells more' : 'any token; rules by what is asked'
}

const policy = ({ name, policies }: Service): string =>
  `# Policy of ${name}: every rule with its default. ${MADE}\n# To change one, write it into policy.d/${name}.yaml beside nubo.yaml.\n\n${policySample(policies)}`
