import { event } from '#kit/events.ts'

/** An image is gone; its file may live until its last reader has closed it. */
export const imageDeleted = event<{ id: string }>('glance.image.deleted')
