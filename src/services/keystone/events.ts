import { event } from '#kit/events.ts'

// What other services may want to hear.

/** A project is gone, with its assignments; what other services hold for it should go too. */
export const projectDeleted = event<{ id: string; domainId: string | null }>('keystone.project.deleted')
export const projectDisabled = event<{ id: string }>('keystone.project.disabled')
export const userDeleted = event<{ id: string }>('keystone.user.deleted')
export const groupDeleted = event<{ id: string }>('keystone.group.deleted')
export const domainDeleted = event<{ id: string }>('keystone.domain.deleted')
