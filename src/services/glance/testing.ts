/** The image service under test, with a folder of its own. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { parseConfig } from '#kit/config.ts'
import { ADMIN, type Answer, type CallOptions, type TestCloud, testCloud } from '#kit/http/test.ts'
import { keystone } from '#services/keystone/index.ts'
import { swift } from '#services/swift/index.ts'
import { glance } from './service.ts'
import { glanceSettings } from './settings.ts'
import { placeOf, storesOf } from './stores.ts'

export interface ImageCloud extends TestCloud {
  folder: string
  /** What the default store holds, parts of uploads too. */
  files(): Promise<string[]>
  /** Creates an image of raw bytes; other fields as given. */
  image(fields?: Record<string, unknown>, options?: CallOptions): Promise<Record<string, unknown> & { id: string }>
  /** Uploads bytes. */
  upload(id: string, bytes: Buffer | string, options?: CallOptions): Promise<Answer>
}

/** The default store in object storage, in objects of a few bytes. */
export const IN_OBJECTS = 'stores: [{ id: swift, container: images, segment_size: 300 }]'

/** Starts it, with object storage where stores are in that; `yaml` is the configuration of its section. */
export async function imageCloud(t: TestContext, yaml = ''): Promise<ImageCloud> {
  const folder = mkdtempSync(join(tmpdir(), 'nubo-glance-'))
  const section = yaml === '' ? '' : `glance:\n${yaml.replace(/^/gm, '  ')}\n`
  const config = parseConfig(`nubo: { data: ${folder} }\n${section}`, 'test', [
    keystone.settings!,
    swift.settings!,
    glanceSettings,
  ])
  const cloud = await testCloud(t, yaml.includes('container:') ? [keystone, swift, glance] : [keystone, glance], { config })
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  return {
    ...cloud,
    folder,
    files: async () => (await placeOf(cloud.env, storesOf(cloud.env)[0]!).list()).map(file => file.name),
    async image(fields = {}, options = {}) {
      const answer = await cloud.call('POST /image/v2/images', {
        ...options,
        body: { name: 'i', disk_format: 'raw', container_format: 'bare', ...fields },
      })
      if (answer.status !== 201) throw new Error(`${answer.status} ${JSON.stringify(answer.body)}`)
      return answer.body
    },
    async upload(id, bytes, { as = ADMIN, headers } = {}) {
      const who = {
        userDomainId: 'default',
        projectId: null,
        projectDomainId: 'default',
        domainId: null,
        systemScope: false,
        ...as,
      }
      const response = await fetch(`${cloud.url}/image/v2/images/${id}/file`, {
        method: 'PUT',
        headers: { 'content-type': 'application/octet-stream', 'x-auth-token': JSON.stringify(who), ...headers },
        body: typeof bytes === 'string' ? bytes : new Uint8Array(bytes),
      })
      const text = await response.text()
      return { status: response.status, headers: response.headers, body: text === '' ? '' : JSON.parse(text) }
    },
  }
}
