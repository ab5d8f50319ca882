import { hasShape, type Tried } from '#kit/http/tried.ts'

/** One private image with a member, a tag, a location and a task. */
export const tried: Tried = {
  async make({ owner, admin, projectId }) {
    const { id } = await owner('POST /v2/images', { name: 'tried', disk_format: 'raw', container_format: 'bare', tags: ['one'] })
    await owner(`PUT /v2/images/${id}/file`, 'not much of a disk')
    const member = 'b0000000000040008000000000000001'
    const { member_id } = await owner(`POST /v2/images/${id}/members`, { member })
    const task = await admin('POST /v2/tasks', {
      type: 'import',
      input: {
        import_from: 'http://127.0.0.9/none.raw',
        import_from_format: 'raw',
        image_properties: { disk_format: 'raw', container_format: 'bare', owner: projectId },
      },
    })
    const all = { name: 'for all', disk_format: 'raw', container_format: 'bare', visibility: 'public' }
    const forAll = (await admin('POST /v2/images', all)).id
    await admin(`PUT /v2/images/${forAll}/file`, 'not much of a disk')
    const space = 'OS::Tried'
    await admin('POST /v2/metadefs/namespaces', {
      namespace: space,
      owner: projectId,
      visibility: 'private',
      resource_type_associations: [{ name: 'OS::Nova::Server', prefix: 'hw_' }],
      properties: { size: { title: 'Size', type: 'integer' } },
      objects: [{ name: 'thing', required: [], properties: {} }],
      tags: [{ name: 'one' }],
    })
    return {
      '/metadefs/namespaces/:': space,
      '/metadefs/namespaces/:/resource_types/:': 'OS::Nova::Server',
      '/metadefs/namespaces/:/properties/:': 'size',
      '/metadefs/namespaces/:/objects/:': 'thing',
      '/metadefs/namespaces/:/tags/:': 'one',
      forAll,
      '/images/:': id,
      '/images/:/members/:': member_id,
      '/images/:/tags/:': 'one',
      '/tasks/:': task.id,
      '/stores/:': 'file',
      '/stores/:/:': id,
      '/cache/:': id,
      '/cache/nodes/:': id,
    }
  },
  common: ['forAll'],
  bodies: ids => ({
    'PATCH /images/:id': [{ op: 'replace', path: '/name', value: 'other' }],
    'POST /images/:id/import': { method: { name: 'glance-direct' } },
    'PUT /images/:id/members/:member': { status: 'accepted' },
    'POST /images/:id/members': { member: 'b0000000000040008000000000000002' },
    'POST /images/:id/locations': { url: `http://127.0.0.9/${ids['/images/:']}` },
    'POST /images': { name: 'more', disk_format: 'raw', container_format: 'bare' },
  }),
  refusal: body => hasShape(body, { message: 'string', code: 'string', title: 'string' }),
}
