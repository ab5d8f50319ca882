/** The outermost step: names the transaction, keeps the store's own headers in and out, answers anything thrown, writes the access log. */
import { type App, answer, type Headers, type Res, refuse, transactionHeaders, transactionId } from '../../http/message.ts'
import { gateIn, gateOut } from '../headers.ts'
import type { Step } from '../site.ts'

/** Wraps everything. */
export const edge: Step = (next, site): App => {
  const { log } = site.cluster
  return async req => {
    const began = performance.now()
    if (req.env.source === null) {
      gateIn(req.headers)
      req.footers = undefined // a client's trailers would go round the gate
    }
    req.env.transId = transactionId(req.headers)
    let res: Res
    try {
      res = await next(req)
    } catch (error) {
      try {
        res = answer(error)
      } catch (unexpected) {
        log.error({ err: unexpected, method: req.method, path: req.path, trans: req.env.transId }, 'request failed')
        res = refuse(500)
      }
    }
    const headers: Headers = gateOut(res.headers)
    Object.assign(headers, transactionHeaders(req.env.transId))
    if (site.settings.accessLog && log.on('info')) {
      log.info(
        {
          remote: req.env.remote,
          method: req.method,
          path: req.rawPath,
          status: res.status,
          bytes_in: req.length,
          bytes_out: headers['content-length'],
          trans: req.env.transId,
          user: req.env.who?.userName,
          ms: Math.round(performance.now() - began),
          info: req.env.logInfo.length ? req.env.logInfo : undefined,
          policy: res.headers['x-backend-storage-policy-index'],
        },
        'access',
      )
    }
    return { ...res, headers }
  }
}
