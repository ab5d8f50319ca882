// The words of this service's refusals. `type` is the name under which clients know the error.
import { badRequest, conflict, type Fault, notFound, overQuota, unavailable } from '#kit/fault.ts'

/** What a noun is called in its errors: `networks` → Network. */
export const gone = {
  network: (id: string): Fault => notFound(`Network ${id} could not be found.`, { type: 'NetworkNotFound' }),
  subnet: (id: string): Fault => notFound(`Subnet ${id} could not be found.`, { type: 'SubnetNotFound' }),
  port: (id: string): Fault => notFound(`Port ${id} could not be found.`, { type: 'PortNotFound' }),
  router: (id: string): Fault => notFound(`Router ${id} could not be found`, { type: 'RouterNotFound' }),
  floatingip: (id: string): Fault => notFound(`Floating IP ${id} could not be found`, { type: 'FloatingIPNotFound' }),
  security_group: (id: string): Fault => notFound(`Security group ${id} does not exist`, { type: 'SecurityGroupNotFound' }),
}

/** 400 with a type of its own. */
export const invalid = (type: string, message: string): Fault => badRequest(message, { type })

/** A value of a request as an error tells it: any JSON, cut where it is long. */
export function told(value: unknown): string {
  const text = typeof value === 'string' ? value : (JSON.stringify(value) ?? 'None')
  return text.length > 255 ? `${text.slice(0, 255)}…` : text
}

/** 400 in the words that all attributes have in common. */
export const invalidInput = (field: string, why: string): Fault =>
  badRequest(`Invalid input for ${field}. Reason: ${why}.`, { type: 'HTTPBadRequest', field })

/** 400 InvalidInput: what one attribute says cannot stand beside another. */
export const contradicts = (why: string): Fault => badRequest(`Invalid input for operation: ${why}.`, { type: 'InvalidInput' })

export const inUse = (type: string, message: string): Fault => conflict(message, { type })

export const exceeded = (resources: string[]): Fault =>
  overQuota(`Quota exceeded for resources: [${resources.map(r => `'${r}'`).join(', ')}].`, { type: 'OverQuota', status: 409 })

export const noneLeft = (type: string, message: string): Fault => unavailable(message, { type })
