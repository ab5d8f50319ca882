/**
 * Volumes on servers, while there is no block storage service: a server has none, and none that is named exists. Clients that look (the
 * stock client does for every server it shows) are told so in the API's own words.
 */
import { badRequest, type Fault, notFound, notImplemented } from '#kit/fault.ts'
import { type Call, type Method, type Route, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { COUNT, Flag, query, TEXT } from '../fields.ts'
import { serverTarget } from '../servers/routes.ts'
import { V } from '../versions.ts'

const CLOSED = { additionalProperties: false }
const { Optional, since } = S

const noVolume = (id: string): Fault => notFound(`Volume ${id} could not be found.`)
const noStorage = (): Fault => notImplemented('There is no block storage service.')

const Device = () =>
  Optional(S.Nullable(S.String({ minLength: 1, maxLength: 255, pattern: '(^/dev/x{0,1}[a-z]{0,1}d{0,1})([a-z]+)[0-9]*$' })))
const attachBody = S.Object(
  {
    volumeAttachment: S.Object(
      {
        volumeId: S.Uuid(),
        device: Device(),
        tag: since(V.attachTags, Optional(S.String({ minLength: 1, maxLength: 60, pattern: '^[^,/]*$' }))),
        delete_on_termination: since(V.attachDelete, Optional(Flag())),
      },
      CLOSED,
    ),
  },
  CLOSED,
)
const updateBody = S.Object(
  {
    volumeAttachment: S.Object(
      {
        volumeId: S.Uuid(),
        device: since(V.updateDelete, Device()),
        tag: since(V.updateDelete, Optional(S.String())),
        delete_on_termination: since(V.updateDelete, Optional(Flag())),
        serverId: since(V.updateDelete, Optional(S.Uuid())),
        id: since(V.updateDelete, Optional(S.Uuid())),
      },
      CLOSED,
    ),
  },
  CLOSED,
)

const of = (method: Method, path: string) => ({ method, path: `/servers/:id/os-volume_attachments${path}`, target: serverTarget })

const attachments: Route[] = [
  route({
    ...of('GET', ''),
    policy: 'os_compute_api:os-volumes-attachments:index',
    query: query({ limit: COUNT, offset: COUNT }),
    handle: () => ({ volumeAttachments: [] }),
  }),
  route({
    ...of('POST', ''),
    policy: 'os_compute_api:os-volumes-attachments:create',
    body: attachBody,
    handle({ body }) {
      throw noVolume(body.volumeAttachment.volumeId)
    },
  }),
  route({
    ...of('GET', '/:volume'),
    policy: 'os_compute_api:os-volumes-attachments:show',
    handle({ target, params }) {
      throw notFound(`Instance ${target.id} is not attached to volume ${params.volume}`)
    },
  }),
  route({
    ...of('PUT', '/:volume'),
    policy: 'os_compute_api:os-volumes-attachments:update',
    body: updateBody,
    handle({ params }) {
      throw noVolume(params.volume!)
    },
  }),
  route({
    ...of('DELETE', '/:volume'),
    policy: 'os_compute_api:os-volumes-attachments:delete',
    handle({ params }) {
      throw noVolume(params.volume!)
    },
  }),
]

const assisted: Route[] = [
  route({
    method: 'POST',
    path: '/os-assisted-volume-snapshots',
    policy: 'os_compute_api:os-assisted-volume-snapshots:create',
    body: S.Object(
      {
        snapshot: S.Object(
          {
            volume_id: S.String({ minLength: 1 }),
            create_info: S.Object(
              {
                snapshot_id: S.String({ minLength: 1 }),
                type: S.OneOf('qcow2'),
                new_file: S.String({ minLength: 1 }),
                id: Optional(S.String({ minLength: 1 })),
              },
              CLOSED,
            ),
          },
          CLOSED,
        ),
      },
      CLOSED,
    ),
    handle({ body }) {
      throw badRequest(`No volume Block Device Mapping with id ${body.snapshot.volume_id}.`)
    },
  }),
  route({
    method: 'DELETE',
    path: '/os-assisted-volume-snapshots/:id',
    success: 204,
    policy: 'os_compute_api:os-assisted-volume-snapshots:delete',
    query: query({ delete_info: TEXT }),
    handle({ search }) {
      throw badRequest(`No volume Block Device Mapping with id ${volumeOf(search.get('delete_info'))}.`)
    },
  }),
]

/** The volume that `delete_info` names. Throws badRequest. */
function volumeOf(text: string | null): string {
  let info: unknown
  try {
    info = JSON.parse(text ?? '')
  } catch (error) {
    throw badRequest('delete_info must be JSON.', { cause: error })
  }
  const id = typeof info === 'object' && info !== null ? (info as { volume_id?: unknown }).volume_id : undefined
  if (typeof id !== 'string') throw badRequest('delete_info must name a volume_id.')
  return id
}

/** Volumes and their snapshots as they were asked of Nova until 2.35. */
function proxy(path: string, rules: string, plural: string, body: S.TSchema, word: string): Route[] {
  const until = V.noProxies - 1
  const gone = ({ params }: Pick<Call, 'params'>): never => {
    throw notFound(`${word} ${params.id} could not be found.`)
  }
  return [
    route({ method: 'GET', path, until, policy: `${rules}list`, handle: () => ({ [plural]: [] }) }),
    route({ method: 'GET', path: `${path}/detail`, until, policy: `${rules}detail`, handle: () => ({ [plural]: [] }) }),
    route({ method: 'GET', path: `${path}/:id`, until, policy: `${rules}show`, handle: gone }),
    route({ method: 'DELETE', path: `${path}/:id`, until, policy: `${rules}delete`, handle: gone }),
    route({
      method: 'POST',
      path,
      until,
      policy: `${rules}create`,
      body,
      handle() {
        throw noStorage()
      },
    }),
  ]
}

const Size = () => S.Unsafe<number | string>({ type: ['integer', 'string'], pattern: '^[0-9]+$', minLength: 1, minimum: 1 })
const Text = () => Optional(S.Nullable(S.String()))
const volumeBody = S.Object({
  volume: S.Object({ size: Size(), display_name: Text(), display_description: Text(), volume_type: Text(), snapshot_id: Text() }),
})
const snapshotBody = S.Object({
  snapshot: S.Object({ volume_id: S.String(), force: Optional(Flag()), display_name: Text(), display_description: Text() }),
})

export const volumeRoutes: Route[] = [
  ...attachments,
  ...assisted,
  ...proxy('/os-volumes', 'os_compute_api:os-volumes:', 'volumes', volumeBody, 'Volume'),
  ...proxy('/os-snapshots', 'os_compute_api:os-volumes:snapshots:', 'snapshots', snapshotBody, 'Snapshot'),
]
