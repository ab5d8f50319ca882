import type { Tried } from '#kit/http/tried.ts'

/** A container with an object. Swift has no table of routes, so its requests are listed here. */
export const tried: Tried = {
  async make({ owner, projectId }) {
    await owner(`PUT /v1/AUTH_${projectId}/tried`)
    await owner(`PUT /v1/AUTH_${projectId}/tried/thing`, 'some bytes')
    return { '/v1/:': `AUTH_${projectId}`, '/v1/:/:': 'tried', '/v1/:/:/:': 'thing' }
  },
  requests: ['/v1/:account', '/v1/:account/:container', '/v1/:account/:container/:object'].flatMap(path =>
    ['GET', 'HEAD', 'PUT', 'POST', 'DELETE'].map(method => ({ method, path })),
  ),
  // Text or HTML, as the client asks; a body may be absent altogether.
  refusal: body => typeof body === 'string' || body === undefined,
}
