/** Every service of the program, left to right: each may call those before it. */
import type { Service } from '#kit/service.ts'
import { glance } from '#services/glance/index.ts'
import { keystone } from '#services/keystone/index.ts'
import { neutron } from '#services/neutron/index.ts'
import { nova } from '#services/nova/index.ts'
import { placement } from '#services/placement/index.ts'
import { swift } from '#services/swift/index.ts'

export const SERVICES: readonly Service[] = [keystone, placement, swift, glance, neutron, nova]
