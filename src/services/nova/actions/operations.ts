/** The operations, a row each. */
import { call } from '#kit/link/index.ts'
import { guestSpec } from '../guests/spec.ts'
import type { Power } from '../spec.ts'
import { destroy, ensure, injectNmi, power, reboot, rescue, resizeDisk, setPassword, unrescue } from '../verbs.ts'
import type { Doing, Operation } from './operation.ts'

const to =
  (wanted: Power) =>
  ({ env, host, server, signal, key }: Doing) =>
    call(env, host, power, { id: server.id, to: wanted, revision: server.revision }, { signal, key })

/** Makes the guest what the row says now. */
export const make = ({ env, host, server, signal, key }: Doing, wanted: Power = server.wanted_power) =>
  call(env, host, ensure, guestSpec(server, { power: wanted }), { signal, key, deadline: 1800 })

async function hardReboot(doing: Doing) {
  const { env, host, server, signal, key } = doing
  // The newest wishes first (a guest that is off starts by that alone), then a new process.
  const guest = await make({ ...doing, key: `${key}/ensure` }, 'running')
  if (doing.options.wasOff === true) return guest
  return call(env, host, reboot, { id: server.id, kind: 'hard' }, { signal, key })
}

/** A new guest in place of the old one: its disks go, its ports stay. */
async function rebuilt(doing: Doing) {
  const { env, host, server, signal, key, options } = doing
  await call(env, host, destroy, { id: server.id }, { signal, key: `${key}/destroy` })
  const adminPassword = typeof options.adminPassword === 'string' ? options.adminPassword : undefined
  const spec = guestSpec(server, { adminPassword })
  return call(env, host, ensure, spec, { signal, key, deadline: 1800 })
}

/** CPUs and memory change with a new process; the root disk grows and never shrinks. */
export async function resized(doing: Doing) {
  const { env, host, server, signal, key, options } = doing
  await call(env, host, power, { id: server.id, to: 'off', revision: server.revision - 1 }, { signal, key: `${key}/off` })
  await make({ ...doing, key: `${key}/ensure` }, 'off')
  const { root_gb } = server.flavor
  if (root_gb > 0 && server.image && server.image.diskFormat !== 'iso') {
    const bytes = root_gb * 1024 ** 3
    await call(env, host, resizeDisk, { id: server.id, name: 'root', bytes }, { signal, key: `${key}/disk` })
  }
  return make(doing, options.stopped === true ? 'off' : 'running')
}

const rows = <K extends string>(of: Record<K, Operation>): Record<K, Operation> => of

export const OPERATIONS = rows({
  start: {
    action: 'start',
    event: 'compute_start_instance',
    from: ['stopped'],
    during: 'powering-on',
    wants: 'running',
    act: doing => make(doing, 'running'),
    to: 'active',
  },
  stop: {
    action: 'stop',
    event: 'compute_stop_instance',
    from: ['active', 'error'],
    during: 'powering-off',
    wants: 'off',
    act: to('off'),
    to: 'stopped',
  },
  pause: {
    action: 'pause',
    event: 'compute_pause_instance',
    from: ['active'],
    during: 'pausing',
    wants: 'paused',
    act: to('paused'),
    to: 'paused',
  },
  unpause: {
    action: 'unpause',
    event: 'compute_unpause_instance',
    from: ['paused'],
    during: 'unpausing',
    wants: 'running',
    act: to('running'),
    to: 'active',
  },
  suspend: {
    action: 'suspend',
    event: 'compute_suspend_instance',
    from: ['active'],
    during: 'suspending',
    wants: 'suspended',
    act: to('suspended'),
    to: 'suspended',
  },
  resume: {
    action: 'resume',
    event: 'compute_resume_instance',
    from: ['suspended'],
    during: 'resuming',
    wants: 'running',
    act: to('running'),
    to: 'active',
  },
  softReboot: {
    action: 'reboot',
    event: 'compute_reboot_instance',
    from: ['active'],
    during: 'rebooting',
    wants: 'running',
    act: ({ env, host, server, signal, key }) => call(env, host, reboot, { id: server.id, kind: 'soft' }, { signal, key }),
    to: 'active',
  },
  hardReboot: {
    action: 'reboot',
    event: 'compute_reboot_instance',
    from: ['active', 'stopped', 'paused', 'suspended', 'error'],
    during: 'rebooting_hard',
    wants: 'running',
    act: hardReboot,
    to: 'active',
    after: () => ({ fault: null }),
    fatal: true,
  },
  rebuild: {
    action: 'rebuild',
    event: 'compute_rebuild_instance',
    from: ['active', 'stopped', 'error'],
    during: 'rebuilding',
    wants: null,
    act: rebuilt,
    to: null,
    after: (_, guest) => ({
      vm_state: guest?.power === 'off' ? 'stopped' : 'active',
      fault: null,
      launched_at: new Date(),
      progress: 0,
    }),
    fatal: true,
    deadline: 1800,
  },
  rescue: {
    action: 'rescue',
    event: 'compute_rescue_instance',
    from: ['active', 'stopped', 'error'],
    during: 'rescuing',
    wants: 'running',
    act: doing => {
      const wanted = guestSpec(doing.server).rescue!
      return call(
        doing.env,
        doing.host,
        rescue,
        { id: doing.server.id, rescue: wanted },
        { signal: doing.signal, key: doing.key },
      )
    },
    to: 'rescued',
    deadline: 900,
  },
  unrescue: {
    action: 'unrescue',
    event: 'compute_unrescue_instance',
    from: ['rescued'],
    during: 'unrescuing',
    wants: 'running',
    act: ({ env, host, server, signal, key }) => call(env, host, unrescue, { id: server.id }, { signal, key }),
    to: 'active',
    after: () => ({ rescue: null }),
  },
  changePassword: {
    action: 'changePassword',
    event: 'compute_set_admin_password',
    from: ['active'],
    during: 'updating_password',
    wants: null,
    act: async ({ env, host, server, signal, key, options }) => {
      const user =
        server.image?.properties.os_admin_user ?? (server.image?.properties.os_type === 'windows' ? 'Administrator' : 'root')
      await call(env, host, setPassword, { id: server.id, user, password: String(options.password) }, { signal, key })
      return undefined
    },
    to: null,
    deadline: 60,
  },
  softDelete: {
    action: 'delete',
    event: 'compute_soft_delete_instance',
    from: null,
    during: 'soft-deleting',
    wants: 'off',
    act: to('off'),
    to: 'soft-delete',
    after: () => ({ deleted_at: new Date() }),
  },
  restore: {
    action: 'restore',
    event: 'compute_restore_instance',
    from: ['soft-delete'],
    during: 'restoring',
    wants: 'running',
    act: doing => make(doing, 'running'),
    to: 'active',
    after: () => ({ deleted_at: null }),
  },
  crashDump: {
    action: 'trigger_crash_dump',
    event: 'compute_trigger_crash_dump',
    from: ['active', 'paused', 'rescued', 'resized', 'error'],
    during: 'crash_dumping',
    wants: null,
    act: async ({ env, host, server, signal, key }) => {
      await call(env, host, injectNmi, { id: server.id }, { signal, key })
      return undefined
    },
    to: null,
    deadline: 30,
  },
})
