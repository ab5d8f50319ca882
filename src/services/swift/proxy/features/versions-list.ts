/** `GET container?versions`: the objects of a container and the versions behind them in one listing. */
import { RESERVED } from '../../constraints.ts'
import { type App, isTrue, ok, type Req, type Res, readAll, refuse, reply } from '../../http/message.ts'
import { normal } from '../../timestamp.ts'
import type { Row } from './listings.ts'
import { hiddenContainer, hiddenObject, own, parseHidden } from './versions.ts'

const MOST = 10000

/** The page, newest version of each name first, with `version_id` and `is_latest`. */
export async function listVersions(
  next: App,
  req: Req,
  account: string,
  container: string,
  isVersioned: boolean,
  head: Res,
): Promise<Res> {
  const { query } = req
  const limit = Math.min(Number(query.get('limit') ?? MOST), MOST)
  const marker = query.get('marker') ?? ''
  const versionMarker = query.get('version_marker')
  const prefix = query.get('prefix') ?? ''
  const delimiter = query.get('delimiter')
  const reverse = isTrue(query.get('reverse'))
  if (!marker && versionMarker !== undefined) return refuse(400, 'version_marker param requires marker')
  if (versionMarker !== undefined && versionMarker !== 'null') {
    try {
      normal(versionMarker)
    } catch {
      return refuse(400, 'invalid version_marker param')
    }
  }
  const page = async (path: string, pairs: [string, string][]): Promise<Row[]> => {
    const res = await next(own(req, 'GET', path, { query: new Map([['format', 'json'], ...pairs]) }))
    return ok(res.status) ? (JSON.parse((await readAll(res.body)).toString() || '[]') as Row[]) : []
  }
  const visible = await page(`/v1/${account}/${container}`, [
    ['prefix', prefix],
    ...(marker && versionMarker === undefined && !reverse ? [['marker', marker] as [string, string]] : []),
    ['limit', String(MOST)],
  ])
  const start = !marker
    ? ''
    : versionMarker && versionMarker !== 'null'
      ? hiddenObject(marker, normal(versionMarker))
      : `${RESERVED}${marker}${RESERVED}${versionMarker === 'null' ? '' : ':'}`
  const hidden = isVersioned
    ? await page(`/v1/${account}/${hiddenContainer(container)}`, [
        ['prefix', `${RESERVED}${prefix}`],
        ...(start && !reverse ? [['marker', start] as [string, string]] : []),
        ['limit', String(MOST)],
      ])
    : []
  const current = new Map<string, string>()
  const rows: Row[] = []
  for (const row of visible) {
    const target = row.symlink_path as string | undefined
    const marks = target?.includes('%00versions%00') === true
    if (marks) current.set(row.name!, parseHidden(decodeURIComponent(target!).split('/').slice(4).join('/')).version)
    else if (versionMarker === undefined || reverse || row.name! > marker)
      rows.push({ ...row, version_id: 'null', is_latest: true })
  }
  for (const row of hidden) {
    const { object, version } = parseHidden(row.name!)
    const latest = current.get(object) === version
    const deleted = (row.content_type as string).startsWith('application/x-deleted')
    rows.push({
      ...row,
      name: object,
      version_id: version,
      is_latest: latest,
      ...(deleted ? { content_type: 'application/x-deleted;swift_versions_deleted=1' } : {}),
    })
  }
  const key = (row: Row): string => String(row.version_id)
  const compare = (a: Row, b: Row): number =>
    Buffer.compare(Buffer.from(a.name!), Buffer.from(b.name!)) ||
    (key(a) === key(b) ? 0 : key(a) === 'null' ? -1 : key(b) === 'null' ? 1 : key(a) < key(b) ? 1 : -1)
  rows.sort(compare)
  latestMarkers(rows)
  const last = {
    name: marker,
    version_id: versionMarker === undefined ? null : versionMarker === 'null' ? 'null' : normal(versionMarker),
  }
  const before = (row: Row): boolean => {
    if (!marker) return true
    if (last.version_id !== null) return compare(row, last as Row) < 0
    const order = Buffer.compare(Buffer.from(row.name!), Buffer.from(marker))
    return row.version_id === 'null' ? order < 0 : order <= 0
  }
  const ordered = reverse ? rows.filter(before).reverse() : rows
  const listed = rolled(ordered, prefix, delimiter).slice(0, limit)
  const headers = { ...head.headers, 'content-type': 'application/json; charset=utf-8' } as Res['headers']
  delete headers['content-length']
  return reply(200, headers, Buffer.from(JSON.stringify(listed)))
}

/** Of a name that is deleted now, the newest marker is the latest. */
function latestMarkers(rows: Row[]): void {
  let name = ''
  for (const [i, row] of rows.entries()) {
    if (row.name === name) continue
    name = row.name!
    const same = rows.slice(i).findIndex(other => other.name !== name)
    const group = rows.slice(i, same < 0 ? undefined : i + same)
    if (!group.some(one => one.is_latest)) row.is_latest = String(row.content_type).startsWith('application/x-deleted')
  }
}

function rolled(rows: Row[], prefix: string, delimiter: string | undefined): Row[] {
  if (!delimiter) return rows
  const out: Row[] = []
  let last = ''
  for (const row of rows) {
    const cut = row.name!.indexOf(delimiter, prefix.length)
    if (cut < 0) out.push(row)
    else {
      const subdir = row.name!.slice(0, cut + delimiter.length)
      if (subdir !== last) out.push({ subdir })
      last = subdir
    }
  }
  return out
}
