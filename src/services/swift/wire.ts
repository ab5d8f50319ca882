/** Swift answers below the kit's routing: only what the kit itself says for it goes through here. */
import type { Wire } from '#kit/service.ts'

export const wire: Wire = {
  fault: fault => ({ body: fault.message }),
}
