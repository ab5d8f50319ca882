/**
 * What other services may ask of images. An image boots a guest by its own loader, or by a kernel and a ramdisk that are images too: properties
 * `kernel_id` and `ramdisk_id`.
 */
export { imageDeleted } from './events.ts'
export { imageFill, imageOpen } from './images/data.routes.ts'
export { imageAny, imageFetch, imageRegister, imageRemove, imagesAreThere, imagesOf, imagesWith } from './images/store.ts'
export { type Image, imageView } from './images/view.ts'
export { glance } from './service.ts'
export { glanceSettings } from './settings.ts'
