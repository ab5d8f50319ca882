/** Internal: the controller's own process, started by `nubo up` as root. */
import { controlledMain } from '../roles/controlled.ts'

export const run = (): Promise<void> => controlledMain()
