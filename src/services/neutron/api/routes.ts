import type { Route } from '#kit/http/route.ts'
import { readRoutes } from './read.ts'
import type { Resource } from './resource.ts'
import { tagRoutes } from './tags.ts'
import { writeRoutes } from './write.ts'

/** Every route of a noun. */
export const routesOf = (of: Resource): Route[] => [...readRoutes(of), ...writeRoutes(of), ...(of.standard ? tagRoutes(of) : [])]
