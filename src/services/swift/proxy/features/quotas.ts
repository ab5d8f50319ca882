/** Quotas of accounts (`X-Account-Meta-Quota-Bytes`, `X-Account-Quota-Count`, per policy) and containers (`X-Container-Meta-Quota-*`): 413 beyond them. */
import { type Headers, type Info, type Req, type Res, refuse } from '../../http/message.ts'
import { accountInfo, containerInfo } from '../info.ts'
import { pathOf, type Site, type Step } from '../site.ts'
import { HIDDEN, hiddenContainer } from './versions.ts'

const BAD = 'Invalid bytes quota.'

/** Refuses PUTs that would go over a quota, and quotas set by those who may not. */
export const quotas: Step = (next, site) => async req => {
  const path = pathOf(req)
  if (path?.container === null && (req.method === 'GET' || req.method === 'HEAD')) return shown(await next(req), site)
  if (!path || (req.method !== 'PUT' && req.method !== 'POST')) return next(req)
  if (path.container === null) return (await setAccountQuota(req, site)) ?? next(req)
  if (path.object === null) return checkContainerQuota(req.headers) ?? next(req)
  if (req.method !== 'PUT' || req.env.source === 'VW') return next(req)
  const refused = await over(site, req, path.account, path.container)
  return refused ?? next(req)
}

/** An account's quotas under the names by which they are set. */
function shown(res: Res, site: Site): Res {
  const headers: Headers = { ...res.headers }
  const show = (name: string, value: string | undefined): void => {
    if (value !== undefined && value !== '') headers[name] = value
  }
  show('x-account-quota-bytes', res.headers['x-account-meta-quota-bytes'])
  show('x-account-quota-count', res.headers['x-account-sysmeta-quota-count'])
  for (const policy of site.cluster.policies) {
    for (const what of ['bytes', 'count'])
      show(
        `x-account-quota-${what}-policy-${policy.name.toLowerCase()}`,
        res.headers[`x-account-sysmeta-quota-${what}-policy-${policy.index}`],
      )
  }
  return { ...res, headers }
}

async function setAccountQuota(req: Req, site: Site): Promise<Res | null> {
  const names = ['x-account-meta-quota-bytes', 'x-account-quota-bytes', 'x-account-quota-count']
  const touched = Object.keys(req.headers).filter(
    name =>
      names.some(known => name === known || name === known.replace('x-', 'x-remove-')) ||
      /^x-(remove-)?account-quota-(bytes|count)-policy-/.test(name),
  )
  if (touched.length === 0) return null
  if (req.env.authorize) {
    const refused = await req.env.authorize(req, null)
    if (refused) return refused
  }
  if (!req.env.resellerRequest && req.env.authorize !== null) return refuse(403)
  for (const name of touched) {
    const removing = name.startsWith('x-remove-')
    const value = removing ? '' : req.headers[name]
    if (value !== '' && !/^\d+$/.test(value)) return refuse(400, 'Invalid quota value.')
    const plain = name.replace('x-remove-', 'x-')
    if (plain === 'x-account-meta-quota-bytes') continue
    const policy = /^x-account-quota-(bytes|count)-policy-(.+)$/.exec(plain)
    const known = policy ? site.cluster.policies.find(one => one.name.toLowerCase() === policy[2]) : null
    if (policy && !known) return refuse(400, `Unknown policy ${policy[2]}`)
    if (plain === 'x-account-quota-bytes') req.headers['x-account-meta-quota-bytes'] = value
    else if (policy) req.headers[`x-account-sysmeta-quota-${policy[1]}-policy-${known!.index}`] = value
    else req.headers['x-account-sysmeta-quota-count'] = value
    delete req.headers[name]
  }
  return null
}

function checkContainerQuota(headers: Headers): Res | null {
  const bytes = headers['x-container-meta-quota-bytes']
  const count = headers['x-container-meta-quota-count']
  if (bytes && !/^\d+$/.test(bytes)) return refuse(400, BAD)
  if (count && !/^\d+$/.test(count)) return refuse(400, 'Invalid count quota.')
  return null
}

const number = (value: string | undefined): number | null => (value !== undefined && /^\d+$/.test(value) ? Number(value) : null)

async function over(site: Site, req: Req, account: string, container: string): Promise<Res | null> {
  const { cluster } = site
  let owner = await accountInfo(cluster, req.env, account)
  let box = await containerInfo(cluster, req.env, account, container)
  const limited = (info: Info): boolean => Object.keys(info.headers).some(name => name.includes('-quota-'))
  if (limited(owner)) owner = await accountInfo(cluster, req.env, account, true)
  if (limited(box)) box = await containerInfo(cluster, req.env, account, container, true)
  const size = req.length ?? 0
  const denied = async (text: string): Promise<Res | null> => {
    // say 413 only to those who may write at all
    const refused = req.env.authorize ? await req.env.authorize(req, box.headers['x-container-write'] ?? null) : null
    return refused ?? refuse(413, text)
  }
  if (!req.env.resellerRequest) {
    const bytes = number(owner.headers['x-account-meta-quota-bytes'])
    if (bytes !== null && Number(owner.headers['x-account-bytes-used'] ?? 0) + size > bytes)
      return denied('Upload exceeds quota.')
    const count = number(owner.headers['x-account-sysmeta-quota-count'])
    if (count !== null && Number(owner.headers['x-account-object-count'] ?? 0) + 1 > count) return denied('Upload exceeds quota.')
    const index = box.headers['x-backend-storage-policy-index'] ?? '0'
    const used = (
      JSON.parse(owner.headers['x-backend-policies'] ?? '[]') as { policy: number; bytes_used: number; object_count: number }[]
    ).find(stat => String(stat.policy) === index)
    const policyBytes = number(owner.headers[`x-account-sysmeta-quota-bytes-policy-${index}`])
    if (policyBytes !== null && (used?.bytes_used ?? 0) + size > policyBytes) return denied('Upload exceeds policy quota.')
    const policyCount = number(owner.headers[`x-account-sysmeta-quota-count-policy-${index}`])
    if (policyCount !== null && (used?.object_count ?? 0) + 1 > policyCount) return denied('Upload exceeds policy quota.')
  }
  const bytes = number(box.headers['x-container-meta-quota-bytes'])
  const hidden = bytes !== null && box.headers[HIDDEN] !== undefined
  const versions = hidden ? await containerInfo(cluster, req.env, account, hiddenContainer(container), true) : null
  const stored = Number(box.headers['x-container-bytes-used'] ?? 0) + Number(versions?.headers['x-container-bytes-used'] ?? 0)
  if (bytes !== null && stored + size > bytes) return denied('Upload exceeds quota.')
  const count = number(box.headers['x-container-meta-quota-count'])
  if (count !== null && Number(box.headers['x-container-object-count'] ?? 0) + 1 > count) return denied('Upload exceeds quota.')
  return null
}
