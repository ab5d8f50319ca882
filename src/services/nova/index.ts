/** What other services, and the roles that mount this one, may use of compute. */
export { seedFlavors } from './flavors/seed.ts'
export { serverDeleted } from './servers/delete.saga.ts'
export { nova } from './service.ts'
