import type { Call } from '#kit/http/route.ts'
import { glanceSettings } from '../settings.ts'
import { locationUrl } from '../stores.ts'
import { type Image, imageView } from './view.ts'

/** The image as this caller may see it: its locations need a rule of their own. */
export function imageShown({ ctx, env }: Pick<Call, 'ctx' | 'env'>, image: Image): Record<string, unknown> {
  const view = imageView(image)
  const seen = { ...image, project_id: image.owner, member_id: null }
  if (!env.config.of(glanceSettings).show_multiple_locations || !ctx.can('get_image_location', seen)) return view
  view.locations = image.locations.map(l => ({ url: locationUrl(l), metadata: { ...l.metadata, store: l.store } }))
  return view
}
