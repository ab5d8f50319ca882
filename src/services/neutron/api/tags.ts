// Tags of a noun: a set of short texts, read and changed one by one or as a whole.
import type { Tx } from '#kit/db/index.ts'
import { badRequest, notFound } from '#kit/fault.ts'
import { type Call, type Route, route } from '#kit/http/route.ts'
import { isRule } from '../policy.ts'
import { tagsClean } from './attributes.ts'
import { mayDo, targetOf } from './authorize.ts'
import { rowById } from './read.ts'
import type { Resource, Row } from './resource.ts'
import { lockedRow, updateRow } from './write.ts'

/** The rule for a verb on tags: `update_network:tags`, in one case `update_segments_tags`. */
function ruleOf(of: Resource, verb: string): string {
  const rule = `${verb}_${of.rule}:tags`
  return isRule(rule) ? rule : isRule(`${verb}_${of.plural}_tags`) ? `${verb}_${of.plural}_tags` : `${verb}_${of.rule}`
}

const tagMissing = (tag: string) => notFound(`Tag ${tag} could not be found.`, { type: 'TagNotFound' })

function bodyTags(call: Call): string[] {
  const body = call.body as Row | undefined
  if (typeof body !== 'object' || body === null || !('tags' in body))
    throw badRequest('Invalid tags body', { type: 'HTTPBadRequest' })
  return tagsClean(body.tags)
}

/** Routes below `/networks/:id/tags`. */
export function tagRoutes(of: Resource, path = of.path): Route[] {
  const at = `${path}/:id/tags`
  const read = async (call: Call): Promise<string[]> => {
    const row = await rowById(of, call.db, call.ctx, call.params.id!)
    mayDo(call.ctx, of, targetOf(of, row), ruleOf(of, 'get'))
    return row.tags as string[]
  }
  const write = (call: Call, verb: string, change: (tags: string[]) => string[] | Promise<string[]>): Promise<string[]> =>
    call.env.db.tx(async (tx: Tx) => {
      const row = await lockedRow(of, tx, call, call.params.id!)
      mayDo(call.ctx, of, targetOf(of, row), ruleOf(of, verb))
      const before = row.tags as string[]
      const after = [...new Set(await change(before))]
      if (after.length > 50) throw badRequest('The number of tags exceeds the limit of 50', { type: 'HTTPBadRequest' })
      if (after.length !== before.length || after.some(tag => !before.includes(tag)))
        await updateRow(of, tx, row.id as string, {}, { tags: after })
      return after
    })
  const one = (call: Call): string => tagsClean([call.params.tag])[0]!
  return [
    route({ method: 'GET', path: at, policy: null, handle: async call => ({ tags: await read(call) }) }),
    route({
      method: 'PUT',
      path: at,
      policy: null,
      handle: async call => ({ tags: await write(call, 'update', () => bodyTags(call)) }),
    }),
    route({
      method: 'POST',
      path: at,
      success: 201,
      policy: null,
      handle: async call => ({ tags: await write(call, 'create', tags => [...tags, ...bodyTags(call)]) }),
    }),
    route({
      method: 'DELETE',
      path: at,
      success: 204,
      policy: null,
      handle: async call => void (await write(call, 'delete', () => [])),
    }),
    route({
      method: 'GET',
      path: `${at}/:tag`,
      success: 204,
      policy: null,
      async handle(call) {
        if (!(await read(call)).includes(call.params.tag!)) throw tagMissing(call.params.tag!)
      },
    }),
    route({
      method: 'PUT',
      path: `${at}/:tag`,
      success: 201,
      policy: null,
      handle: async call => void (await write(call, 'update', tags => [...tags, one(call)])),
    }),
    route({
      method: 'DELETE',
      path: `${at}/:tag`,
      success: 204,
      policy: null,
      handle: async call =>
        void (await write(call, 'delete', tags => {
          if (!tags.includes(call.params.tag!)) throw tagMissing(call.params.tag!)
          return tags.filter(tag => tag !== call.params.tag)
        })),
    }),
  ]
}
