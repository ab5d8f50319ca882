/** Placement's envelope: a list of errors, each with a machine code from 1.23 on. Source: the API reference, "Errors". */
import { STATUS_CODES } from 'node:http'
import type { Wire } from '#kit/service.ts'
import { V } from './versions.ts'

export const wire: Wire = {
  fault: (fault, { version, requestId }) => ({
    body: {
      errors: [
        {
          status: fault.status,
          title: STATUS_CODES[fault.status] ?? 'Error',
          detail: `${fault.message}\n\n   `,
          request_id: requestId,
          ...(version >= V.errorCodes && { code: fault.details.code ?? 'placement.undefined_code' }),
          ...fault.details.extra,
        },
      ],
    },
  }),
  complain: (_field, _value, why) => `JSON does not validate: ${why}`,
}
