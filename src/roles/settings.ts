/**
 * All settings of the program, whatever a process mounts: the one file is checked whole, by everybody who reads it. Apart from the services
 * themselves, so that a host's agent and the commands that only ask where things are do without the code of a controller.
 */
import type { Settings } from '#kit/config.ts'
import { corsSettings } from '#kit/http/cors.ts'
import { glanceSettings } from '#services/glance/settings.ts'
import { keystoneSettings } from '#services/keystone/settings.ts'
import { neutronSettings } from '#services/neutron/settings.ts'
import { novaSettings } from '#services/nova/settings.ts'
import { placementSettings } from '#services/placement/settings.ts'
import { swiftSettings } from '#services/swift/config.ts'

export const SETTINGS: readonly Settings[] = [
  corsSettings,
  keystoneSettings,
  placementSettings,
  swiftSettings,
  glanceSettings,
  neutronSettings,
  novaSettings,
]
