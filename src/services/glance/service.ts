import type { Service } from '#kit/service.ts'
import { glanceAudit } from './audit.ts'
import { cacheKeep } from './cache/cache.ts'
import { cacheRoutes } from './cache/routes.ts'
import { imageCreate } from './images/create.route.ts'
import { imageDownload, imageUpload } from './images/data.routes.ts'
import { imageList } from './images/list.route.ts'
import { locationRoutes } from './images/locations.routes.ts'
import { imagePatch } from './images/patch.route.ts'
import { imageDelete, imageShow, imageTags, imageTurns } from './images/show.route.ts'
import { imageImportRoute, imageStage } from './import/import.routes.ts'
import { imageImport } from './import/import.saga.ts'
import { locationImport } from './import/location.saga.ts'
import { taskRoutes } from './import/tasks.routes.ts'
import { infoRoutes } from './info/routes.ts'
import { memberRoutes } from './members/members.routes.ts'
import { definitionRoutes } from './metadefs/definitions.routes.ts'
import { namespaceRoutes } from './metadefs/namespaces.routes.ts'
import { base } from './migrations/0001_base.ts'
import { imports } from './migrations/0002_imports.ts'
import { cache } from './migrations/0003_cache.ts'
import { metadefs } from './migrations/0004_metadefs.ts'
import { policies } from './policy.ts'
import { usageRoute } from './quotas.ts'
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
  exactPaths: true,
  wire,
  settings: glanceSettings,
  policies,
  migrations: [base, imports, cache, metadefs],
  tasks: [sweep],
  sagas: [imageImport, locationImport],
  start: async env => cacheKeep(env),
  audit: glanceAudit,
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
    usageRoute,
    imageStage,
    imageImportRoute,
    ...taskRoutes,
    ...locationRoutes,
    ...cacheRoutes,
    ...namespaceRoutes,
    ...definitionRoutes,
  ],
}
