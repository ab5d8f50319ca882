/**
 * The metadata service's content on a host: answers guests from what the controller said of them a moment ago, and from what it said last
 * when the controller is away, so that twenty guests booting at once cost the control plane a handful of questions.
 *
 * Paths as EC2 (RFC-less: Amazon's "Instance metadata") and Nova's metadata documentation have them.
 */
import { Fault } from '#kit/fault.ts'
import type { AgentLink } from '#kit/link/index.ts'
import { type ServerMetadata, serverMetadata } from '../verbs.ts'

/** Milliseconds for which what was said is good. */
const FRESH_MS = 5000
/** Guests remembered at most: those of a host that is full. */
const REMEMBERED = 2000

export interface MetadataReply {
  status: number
  headers?: Record<string, string>
  body: string | Uint8Array
}

interface Known {
  at: number
  said: Promise<ServerMetadata>
  last?: ServerMetadata
}

/** Makes the answerer. `deviceId` is the server's id; whoever listens has told guests apart already. */
export function guestMetadata(
  link: Pick<AgentLink, 'ask'>,
): (guest: { deviceId: string }, request: { method: string; path: string }) => Promise<MetadataReply> {
  const known = new Map<string, Known>()
  const look = async (id: string): Promise<ServerMetadata> => {
    const before = known.get(id)
    if (before && Date.now() - before.at < FRESH_MS) return before.said
    const now: Known = { at: Date.now(), said: link.ask(serverMetadata, { id }), last: before?.last }
    known.delete(id)
    known.set(id, now)
    if (known.size > REMEMBERED) known.delete(known.keys().next().value!)
    now.said = now.said.then(
      said => {
        now.last = said
        return said
      },
      error => {
        now.at = 0
        if (now.last && !(error instanceof Fault && error.kind === 'notFound')) return now.last
        throw error
      },
    )
    return now.said
  }
  return async ({ deviceId }, { method, path }) => {
    if (method !== 'GET' && method !== 'HEAD') return { status: 405, body: 'only GET\n' }
    try {
      return answer(await look(deviceId), path)
    } catch (error) {
      if (error instanceof Fault && error.kind === 'notFound')
        return { status: 404, body: 'there is no metadata for this address\n' }
      throw error
    }
  }
}

const EC2_VERSIONS = [
  '1.0',
  '2007-01-19',
  '2007-03-01',
  '2007-08-29',
  '2007-10-10',
  '2007-12-15',
  '2008-02-01',
  '2008-09-01',
  '2009-04-04',
  'latest',
]

const text = (body: string): MetadataReply => ({ status: 200, headers: { 'content-type': 'text/plain; charset=UTF-8' }, body })
const none: MetadataReply = { status: 404, headers: { 'content-type': 'text/plain' }, body: 'Not Found\n' }

/** Answers a path from a server's metadata. Pure. */
export function answer(said: ServerMetadata, path: string): MetadataReply {
  const parts = path.split('?')[0]!.split('/').filter(Boolean)
  if (parts.length === 0) return text(EC2_VERSIONS.join('\n'))
  if (parts[0] === 'openstack') return openstack(said, parts)
  if (!EC2_VERSIONS.includes(parts[0]!)) return none
  if (parts.length === 1) return text(said.userData === null ? 'meta-data/' : 'meta-data/\nuser-data')
  if (parts[1] === 'user-data' && parts.length === 2) return said.userData === null ? none : bytes(said.userData)
  return parts[1] === 'meta-data' ? ec2(said.ec2, parts.slice(2)) : none
}

const bytes = (base64: string): MetadataReply => ({
  status: 200,
  headers: { 'content-type': 'application/octet-stream' },
  body: Buffer.from(base64, 'base64'),
})

function openstack({ files }: ServerMetadata, parts: string[]): MetadataReply {
  const path = parts.join('/')
  const file = files[path]
  if (file !== undefined) {
    const json = path.endsWith('.json')
    return {
      status: 200,
      headers: { 'content-type': json ? 'application/json' : 'application/octet-stream' },
      body: Buffer.from(file, 'base64'),
    }
  }
  const below = Object.keys(files).filter(name => name.startsWith(`${path}/`))
  const names = new Set(below.map(name => name.slice(path.length + 1).split('/')[0]!))
  return names.size > 0 ? text([...names].filter(name => name !== 'content' || parts.length > 1).join('\n')) : none
}

function ec2(tree: Record<string, unknown>, parts: string[]): MetadataReply {
  let at: unknown = tree
  for (const part of parts) {
    if (typeof at !== 'object' || at === null) return none
    const of = at as Record<string, unknown>
    // A key is listed as `0=name` and asked for as `0`.
    const key = Object.hasOwn(of, part) ? part : Object.keys(of).find(name => name.startsWith(`${part}=`))
    if (key === undefined) return none
    at = of[key]
  }
  if (typeof at !== 'object' || at === null) return text(String(at))
  return text(
    Object.entries(at)
      .map(([name, value]) => (typeof value === 'object' && !name.includes('=') ? `${name}/` : name))
      .join('\n'),
  )
}
