/** Wake-ups inside one process. Only hints: a poll stands behind each of them. */
import { EventEmitter } from 'node:events'

const wakes = new EventEmitter()
wakes.setMaxListeners(0)

/** There may be sagas to claim. */
export const wakeRunners = (): void => void wakes.emit('runners')

/** Rows that the saga of this resource waits for may have changed. */
export const wakeWaiters = (resource: string): void => void wakes.emit(`waiters ${resource}`)

/** Calls back at each `wakeRunners`; returns how to stop. */
export function onRunners(fn: () => void): () => void {
  wakes.on('runners', fn)
  return () => void wakes.off('runners', fn)
}

/** Calls back at each `wakeWaiters` of the resource; returns how to stop. */
export function onWaiters(resource: string, fn: () => void): () => void {
  wakes.on(`waiters ${resource}`, fn)
  return () => void wakes.off(`waiters ${resource}`, fn)
}

/** Whether the saga of this resource is executed by this process, which then hears of everything by itself. */
export const runsHere = (resource: string): boolean => wakes.listenerCount(`waiters cancel ${resource}`) > 0
