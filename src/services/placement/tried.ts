import { hasShape, type Tried } from '#kit/http/tried.ts'

/** Placement belongs to the cloud: everything in it is the administrator's. */
export const tried: Tried = {
  async make({ admin, projectId, userId }) {
    const uuid = 'a0000000-0000-4000-8000-000000000001'
    const consumer = 'a0000000-0000-4000-8000-000000000002'
    await admin('POST /resource_providers', { name: 'tried', uuid })
    await admin(`PUT /resource_providers/${uuid}/inventories`, {
      resource_provider_generation: 0,
      inventories: { VCPU: { total: 8 } },
    })
    await admin('PUT /traits/CUSTOM_TRIED')
    await admin('PUT /resource_classes/CUSTOM_TRIED')
    await admin(`PUT /allocations/${consumer}`, {
      allocations: { [uuid]: { resources: { VCPU: 1 } } },
      project_id: projectId,
      user_id: userId,
      consumer_generation: null,
      consumer_type: 'INSTANCE',
    })
    return {
      '/resource_providers/:': uuid,
      '/resource_providers/:/inventories/:': 'VCPU',
      '/traits/:': 'CUSTOM_TRIED',
      '/resource_classes/:': 'CUSTOM_TRIED',
      '/allocations/:': consumer,
    }
  },
  open: { 'DELETE /resource_providers/:uuid/inventories': 'answers 405 to everybody before 1.5' },
  refusal: body => {
    const errors = (body as { errors?: unknown[] } | null)?.errors
    return (
      Array.isArray(errors) && hasShape(errors[0], { status: 'number', title: 'string', detail: 'string', request_id: 'string' })
    )
  },
}
