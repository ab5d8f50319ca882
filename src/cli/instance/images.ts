/** The first images of a cloud: the small guest image, so that a server can be booted at once. Made as a client would, over the API. */
import { createReadStream, statSync } from 'node:fs'
import { request as httpRequest } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { Readable } from 'node:stream'
import { text } from 'node:stream/consumers'
import { pipeline } from 'node:stream/promises'
import { type Guest, guestBuilt, guestEnsure } from '../../../guest/build.ts'
import { guestFolder } from '../image.ts'
import type { Passwords } from './clouds.ts'

/** How to reach the cloud as its administrator. */
export interface Reach {
  url: string
  passwords: Passwords
  /** The cloud's own authority, in PEM, where it serves TLS. */
  ca?: string
}

/** What is sent: JSON text, or bytes of a known length. */
type Body = string | Buffer | Readable

interface Answer {
  token: string | undefined
  json: unknown
}

interface Api {
  call(method: string, path: string, body?: unknown): Promise<unknown>
  put(path: string, bytes: Body, size: number): Promise<void>
}

/** One request. Throws with the API's own words when it refuses. */
async function ask(
  reach: Reach,
  method: string,
  path: string,
  headers: Record<string, string>,
  body: Body = '',
): Promise<Answer> {
  const request = reach.url.startsWith('https:') ? httpsRequest : httpRequest
  return new Promise((resolve, reject) => {
    const sent = request(new URL(reach.url + path), { method, headers, ca: reach.ca }, response => {
      text(response).then(answer => {
        if (response.statusCode! >= 300) reject(new Error(`${method} ${path}: ${response.statusCode} ${answer}`))
        else
          resolve({
            token: response.headers['x-subject-token'] as string | undefined,
            json: answer ? JSON.parse(answer) : undefined,
          })
      }, reject)
    })
    sent.on('error', reject)
    if (body instanceof Readable) pipeline(body, sent).catch(reject)
    else sent.end(body)
  })
}

const JSON_TYPE = { 'content-type': 'application/json' }

/** Signs in as administrator. Throws with the API's answer when it refuses. */
async function signIn(reach: Reach): Promise<Api> {
  const auth = {
    identity: {
      methods: ['password'],
      password: { user: { name: 'admin', domain: { id: 'default' }, password: reach.passwords.admin } },
    },
    scope: { project: { name: 'admin', domain: { id: 'default' } } },
  }
  const { token } = await ask(reach, 'POST', '/identity/v3/auth/tokens', JSON_TYPE, JSON.stringify({ auth }))
  const known = { 'x-auth-token': token! }
  return {
    call: async (method, path, body) =>
      (await ask(reach, method, path, { ...known, ...JSON_TYPE }, body === undefined ? '' : JSON.stringify(body))).json,
    async put(path, bytes, size) {
      await ask(
        reach,
        'PUT',
        path,
        { ...known, 'content-type': 'application/octet-stream', 'content-length': String(size) },
        bytes,
      )
    },
  }
}

/**
 * Uploads the guest image to a cloud that has none: built from Debian packages for real hosts, a blank disk for pretended ones.
 * `say` tells progress.
 */
export async function firstImages(reach: Reach, simulated: boolean, say: (line: string) => void): Promise<void> {
  const api = await signIn(reach)
  if (simulated) {
    const blank = Buffer.alloc(64 * 1024)
    await upload(api, { name: 'guest', disk_format: 'raw' }, blank, blank.length)
    return
  }
  const folder = guestFolder()
  if (!(await guestBuilt(folder))) say('building the guest image (once; about half a minute)')
  const guest = await guestEnsure(folder, say)
  say('uploading the guest image')
  await uploadGuest(api, guest)
}

async function uploadGuest(api: Api, guest: Guest): Promise<void> {
  const file = (path: string): [Body, number] => [createReadStream(path), statSync(path).size]
  const kernel = await upload(
    api,
    { name: 'guest-kernel', disk_format: 'aki', container_format: 'aki', os_hidden: true },
    ...file(guest.kernel),
  )
  const ramdisk = await upload(
    api,
    { name: 'guest-ramdisk', disk_format: 'ari', container_format: 'ari', os_hidden: true },
    ...file(guest.initrd),
  )
  const properties = {
    kernel_id: kernel,
    ramdisk_id: ramdisk,
    os_command_line: guest.commandLine,
    hw_qemu_guest_agent: 'yes',
    os_type: 'linux',
  }
  await upload(api, { name: 'guest', disk_format: 'qcow2', ...properties }, ...file(guest.image))
}

async function upload(api: Api, image: Record<string, unknown>, bytes: Body, size: number): Promise<string> {
  const wanted = { container_format: 'bare', visibility: 'public', ...image }
  const { id } = (await api.call('POST', '/image/v2/images', wanted)) as { id: string }
  await api.put(`/image/v2/images/${id}/file`, bytes, size)
  return id
}
