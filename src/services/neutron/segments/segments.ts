import { sql } from '#kit/db/index.ts'
import { conflict, notFound } from '#kit/fault.ts'
import * as S from '#kit/http/schema.ts'
import { idField, int, nullableText, shown, standard, text, uuid } from '../api/attributes.ts'
import { type Making, type Removing, resource } from '../api/resource.ts'
import { networkFacts } from '../networks/facts.ts'
import { segmentCheck, segmentTake } from '../networks/segments.ts'

/** Segments: the pieces that a network is carried by. */
export const segments = resource({
  name: 'segment',
  plural: 'segments',
  path: '/segments',
  table: 'neutron.segments',
  visible: null,
  gone: id => notFound(`Segment ${id} could not be found.`, { type: 'SegmentNotFound' }),
  attributes: {
    id: idField,
    network_id: uuid({ create: 'required', update: false }),
    network_type: text(undefined, 32, { create: 'required', update: false }),
    physical_network: nullableText(64, { update: false }),
    segmentation_id: int(1, 16777215, { update: false, nullable: true, initial: null }),
    name: nullableText(255),
    ...standard,
    tags: shown(S.Array(S.String()), { filter: false, sort: false }),
    description: { ...text('', 255), schema: S.Nullable(S.String({ maxLength: 255 })), clean: value => value ?? '' },
  },
  create: segmentMake,
  remove: segmentRemove,
})

async function segmentMake({ env, tx, given }: Making): Promise<string> {
  const networkId = given.network_id as string
  await networkFacts(tx, networkId, null)
  const wanted = {
    network_type: given.network_type as string,
    physical_network: given.physical_network as string | null,
    segmentation_id: given.segmentation_id as number | null,
  }
  const checked = await segmentCheck(env, tx, wanted)
  const { rows } = await sql<{
    next: number
  }>`select coalesce(max(segment_index) + 1, 0) as next from neutron.segments where network_id = ${networkId}`.execute(tx)
  await segmentTake(env, tx, networkId, checked, rows[0]!.next)
  const made = await tx
    .updateTable('neutron.segments')
    .set({ name: given.name as string | null, description: given.description as string })
    .where('network_id', '=', networkId)
    .where('segment_index', '=', rows[0]!.next)
    .returning('id')
    .executeTakeFirstOrThrow()
  return made.id
}

async function segmentRemove({ tx, row }: Removing): Promise<void> {
  const id = row.id as string
  const inUse = (why: string) => conflict(`Segment '${id}' cannot be deleted: ${why}.`, { type: 'SegmentInUse' })
  const subnet = await tx.selectFrom('neutron.subnets').select('id').where('segment_id', '=', id).limit(1).executeTakeFirst()
  if (subnet) throw inUse(`The segment is still associated with subnet(s) ${subnet.id}`)
  const { rows } = await sql`select from neutron.ports where network_id = ${row.network_id as string} and host <> ''
    and (select count(*) from neutron.segments where network_id = ${row.network_id as string}) = 1 limit 1`.execute(tx)
  if (rows.length > 0) throw inUse('The segment is still associated with port(s)')
  await tx.deleteFrom('neutron.segments').where('id', '=', id).execute()
}
