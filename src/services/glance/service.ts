import type { Service } from '#kit/service.ts'
import { imageCreate } from './images/create.route.ts'
import { imageDownload, imageUpload } from './images/data.routes.ts'
import { imageList } from './images/list.route.ts'
import { imagePatch } from './images/patch.route.ts'
import { imageDelete, imageShow, imageTags, imageTurns } from './images/show.route.ts'
import { infoRoutes } from './info/routes.ts'
import { memberRoutes } from './members/members.routes.ts'
import { base } from './migrations/0001_base.ts'
import { policies } from './policy.ts'
import { schemaRoutes } from './schemas/routes.ts'
import { glanceSettings } from './settings.ts'
import { sweep } from './tasks/sweep.ts'
import './tables.ts'
import { versionRoutes } from './versions.routes.ts'
import { wire } from './wire.ts'

/** Glance: everything it has. */
export const glance: Service = {
  name: 'glance',
  type: 'image',
  prefix: '/image',
  mounts: ['/v2'],
  wire,
  settings: glanceSettings,
  policies,
  migrations: [base],
  tasks: [sweep],
  routes: [
    ...versionRoutes,
    imageCreate,
    imageList,
    imageShow,
    imageDelete,
    imageUpload,
    imageDownload,
    ...imageTurns,
    ...imageTags,
    imagePatch,
    ...memberRoutes,
    ...schemaRoutes,
    ...infoRoutes,
  ],
}
