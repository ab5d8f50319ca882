/** Small steps: read-only clusters and accounts, forbidden names, quoted ETags. */
import { isTrue, type Req, refuse } from '../../http/message.ts'
import { accountInfo, containerInfo } from '../info.ts'
import { pathOf, type Step } from '../site.ts'

const WRITES = ['COPY', 'DELETE', 'POST', 'PUT']

/** 405 for writes while the cluster (`readOnly`) or the account (`X-Account-Sysmeta-Read-Only`) is read-only. */
export const readOnly: Step = (next, site) => async req => {
  const path = pathOf(req)
  if (!path || !WRITES.includes(req.method)) return next(req)
  const accounts = [path.account, ...(req.headers['destination-account'] ? [req.headers['destination-account']] : [])]
  for (const account of accounts) {
    const own = (await accountInfo(site.cluster, req.env, account)).headers['x-account-sysmeta-read-only']
    if (own === undefined ? site.settings.readOnly : isTrue(own)) return refuse(405, 'Writes are disabled for this account.')
  }
  return next(req)
}

/** 400 for names with characters or patterns that the operator does not want. */
export const nameCheck: Step = (next, site) => {
  const rules = site.settings.nameCheck!
  const pattern = rules.forbiddenPattern ? new RegExp(rules.forbiddenPattern) : null
  return async req => {
    const { path } = req
    if ([...rules.forbiddenChars].some(char => path.includes(char)))
      return refuse(400, `Object/Container/Account name contains forbidden chars from ${rules.forbiddenChars}`)
    if (Buffer.byteLength(path) > rules.maximumLength)
      return refuse(400, `Object/Container/Account name longer than the allowed maximum ${rules.maximumLength}`)
    if (pattern?.test(path))
      return refuse(400, `Object/Container name contains a forbidden substring from regular expression ${rules.forbiddenPattern}`)
    return next(req)
  }
}

/** ETags in quotes, as RFC 9110 wants them: for all, or where `X-Account-Rfc-Compliant-Etags` / `X-Container-…` say so. */
export const etagQuoter: Step = (next, site) => async req => {
  const path = pathOf(req)
  if (path) moveSetting(req, path.container === null ? 'account' : path.object === null ? 'container' : null)
  const res = await next(req)
  if (!path || !res.headers.etag) {
    for (const kind of ['account', 'container']) {
      const stored = res.headers[`x-${kind}-sysmeta-rfc-compliant-etags`]
      if (stored) res.headers[`x-${kind}-rfc-compliant-etags`] = stored
    }
    return res
  }
  if (!path.container || res.headers.etag.startsWith('"')) return res
  const box = (await containerInfo(site.cluster, req.env, path.account, path.container)).headers[
    'x-container-sysmeta-rfc-compliant-etags'
  ]
  const owner = box
    ? undefined
    : (await accountInfo(site.cluster, req.env, path.account)).headers['x-account-sysmeta-rfc-compliant-etags']
  const setting = box || owner
  if (setting ? isTrue(setting) : site.settings.etagQuoter)
    return { ...res, headers: { ...res.headers, etag: `"${res.headers.etag}"` } }
  return res
}

function moveSetting(req: Req, kind: 'account' | 'container' | null): void {
  if (!kind || (req.method !== 'PUT' && req.method !== 'POST')) return
  const value = req.headers[`x-${kind}-rfc-compliant-etags`]
  if (value !== undefined) req.headers[`x-${kind}-sysmeta-rfc-compliant-etags`] = value === '' ? '' : String(isTrue(value))
}
