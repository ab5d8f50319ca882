/** clouds.yaml: how stock clients sign in. Made once with generated passwords, afterwards only its addresses follow the instance. */
import { randomBytes } from 'node:crypto'
import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { parse, stringify } from 'yaml'
import { reason } from '#kit/fault.ts'
import type { Layout } from './layout.ts'

export interface Passwords {
  admin: string
  demo: string
}

interface Cloud {
  auth: {
    auth_url: string
    username: string
    password: string
    project_name: string
    user_domain_name: string
    project_domain_name: string
  }
  region_name: string
  cacert?: string
}

const secret = (): string => randomBytes(18).toString('base64url')

/** The passwords in the file, or new ones where there is none yet. Throws when there is a file that cannot be understood. */
export function passwordsOf(layout: Layout): Passwords {
  if (!existsSync(layout.clouds)) return { admin: secret(), demo: secret() }
  const file = cloudsParse(layout)
  const [admin, demo] = [file?.clouds?.nubo?.auth?.password, file?.clouds?.demo?.auth?.password]
  if (!admin || !demo) throw new Error(`${layout.clouds} lacks the clouds nubo and demo; move it away to have it made again`)
  return { admin, demo }
}

function cloudsParse({ clouds }: Layout): { clouds?: Record<string, Cloud> } | null {
  try {
    return parse(readFileSync(clouds, 'utf8')) as { clouds?: Record<string, Cloud> } | null
  } catch (error) {
    const [why] = reason(error).split('\n')
    throw new Error(`${clouds} cannot be read: ${why?.replace(/:$/, '')}. Mend it, or move it away to have it made again`, {
      cause: error,
    })
  }
}

/** Writes the file for its owner alone: clouds `nubo` (administrator) and `demo` (member of project demo). */
export function cloudsWrite(layout: Layout, passwords: Passwords, authUrl: string, region: string, cacert?: string): void {
  const cloud = (username: string, password: string): Cloud => ({
    auth: {
      auth_url: authUrl,
      username,
      password,
      project_name: username,
      user_domain_name: 'Default',
      project_domain_name: 'Default',
    },
    region_name: region,
    ...(cacert && { cacert }),
  })
  const text = stringify({ clouds: { nubo: cloud('admin', passwords.admin), demo: cloud('demo', passwords.demo) } })
  writeFileSync(`${layout.clouds}.new`, text, { mode: 0o600 })
  renameSync(`${layout.clouds}.new`, layout.clouds)
}
