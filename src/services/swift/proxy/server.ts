/** The innermost App of the proxy: paths to handlers. Everything else of a proxy is a step of `pipeline.ts`. */
import { checkPath } from '../constraints.ts'
import { type App, answer, isTrue, type Req, type Res, refuse, splitPath } from '../http/message.ts'
import { accountRequest } from './account.ts'
import type { Cluster } from './cluster.ts'
import { containerRequest } from './container.ts'
import { objectRequest } from './object.ts'

/** Accounts, containers and objects under `/v1/`. */
export function proxyServer(cluster: Cluster): App {
  return async req => {
    try {
      const bad = checkPath(req.path, isTrue(req.headers['x-backend-allow-reserved-names']))
      if (bad) return bad
      return await route(cluster, req)
    } catch (error) {
      return answer(error)
    }
  }
}

async function route(cluster: Cluster, req: Req): Promise<Res> {
  const [version, account, container, object] = splitPath(req.path, 1, 4)
  if (account === null) return refuse(412, 'Bad URL')
  if (version !== 'v1' && version !== 'v1.0')
    return refuse(version!.startsWith('v') ? 412 : 404, version!.startsWith('v') ? 'Bad URL' : undefined)
  if (object !== null) return objectRequest(cluster, req, account!, container!, object)
  if (container !== null) return containerRequest(cluster, req, account!, container)
  return accountRequest(cluster, req, account!)
}
