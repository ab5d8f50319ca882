import { resolve } from 'node:path'
import type { Env } from '#kit/service.ts'
import { glanceSettings } from './settings.ts'

/** Folder of the image files. */
export const storeFolder = (env: Env): string => resolve(env.config.dataDir, env.config.of(glanceSettings).store)
