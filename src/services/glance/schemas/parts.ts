/** JSON schema documents as the image API shows them: pieces of which they are made. */

export type Doc = Record<string, unknown>

export const text = (description: string, more: Doc = {}): Doc => ({ type: 'string', description, ...more })
export const time = (what: string): Doc => text(`When ${what}.`, { format: 'date-time', readOnly: true })
/** Links of the answer itself. */
export const link = (): Doc => ({ type: 'string', readOnly: true })
export const nullable = (schema: Doc): Doc => ({ ...schema, type: ['null', schema.type] })

/** The schema of one thing. */
export const one = (name: string, properties: Doc, more: Doc = {}): Doc => ({
  name,
  properties,
  additionalProperties: false,
  ...more,
})

/** The schema of a list of things, as its answer is shaped; a dictionary by name for `keyed`. */
export function many(name: string, item: Doc, { keyed = false, paged = true } = {}): Doc {
  const { definitions, ...plain } = item
  const listed = keyed ? { type: 'object', additionalProperties: plain } : { type: 'array', items: plain }
  const pages = { first: { type: 'string' }, next: { type: 'string' } }
  const href = (rel: string, of: string): Doc => ({ rel, href: `{${of}}` })
  return {
    name,
    properties: { [name]: listed, ...(paged && pages), schema: { type: 'string' } },
    links: [...(paged ? [href('first', 'first'), href('next', 'next')] : []), href('describedby', 'schema')],
    ...(definitions !== undefined && { definitions }),
  }
}
