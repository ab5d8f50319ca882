import { route } from '#kit/http/route.ts'
import { imageSchemas } from './image.ts'
import { metadefSchemas } from './metadefs.ts'

const all = {
  ...imageSchemas,
  ...Object.fromEntries(Object.entries(metadefSchemas).map(([name, doc]) => [`metadefs/${name}`, doc])),
}

/** One route a document. */
export const schemaRoutes = Object.entries(all).map(([name, doc]) =>
  route({ method: 'GET', path: `/schemas/${name}`, policy: null, handle: () => doc }),
)
