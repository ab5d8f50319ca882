import { gone } from '#kit/fault.ts'
import { route } from '#kit/http/route.ts'

// What PKI tokens needed, and clients may still ask for: gone, and said so.

const was = (path: string, policy: string | null) =>
  route({
    method: 'GET',
    path,
    policy,
    ...(policy === null ? { auth: 'none' as const } : { policyTarget: () => ({}) }),
    handle() {
      throw gone('This API is no longer available due to the removal of support for PKI tokens.')
    },
  })

export const legacyRoutes = [
  was('/OS-SIMPLE-CERT/ca', null),
  was('/OS-SIMPLE-CERT/certificates', null),
  was('/auth/tokens/OS-PKI/revoked', 'identity:revocation_list'),
]
