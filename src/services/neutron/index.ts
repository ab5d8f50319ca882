// What other services, and the roles that mount this one, may use of networking.
export { portsBound } from './audit.ts'
export type { FixedIp, WantedIp } from './ports/allocate.ts'
export type { PortGiven, PortMade } from './ports/store.ts'
export { type Seed, seedNetworks } from './seed.ts'
export * from './servers.ts'
export { neutron } from './service.ts'
export { neutronSettings } from './settings.ts'
export * from './verbs.ts'
