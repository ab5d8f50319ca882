/** Glance's envelope: `{"message": …, "code": "404 Not Found", "title": "Not Found"}`, as its clients read it when they accept JSON. */
import { STATUS_CODES } from 'node:http'
import type { Wire } from '#kit/service.ts'

export const wire: Wire = {
  fault: ({ kind, status, message }) => {
    // The image API knows quotas as 413 and nothing else.
    const shown = kind === 'overQuota' ? 413 : status
    const title = STATUS_CODES[shown] ?? 'Error'
    return { status: shown, body: { message: `${message}<br /><br />\n\n\n`, code: `${shown} ${title}`, title } }
  },
  requestIdHeaders: ['x-openstack-request-id'],
  complain: (field, _value, why) => `Provided object does not match schema 'image': ${why}${field ? ` (${field})` : ''}`,
}
