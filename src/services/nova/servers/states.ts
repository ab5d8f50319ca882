/** The states of a server: what is kept (vm_state, task_state, power_state) and the one word that the API shows. */
import type { GuestPower } from '../spec.ts'

/** vm_state → task_state → status, `default` for all other task states. */
const STATUS: Record<string, Record<string, string>> = {
  active: {
    default: 'ACTIVE',
    rebooting: 'REBOOT',
    reboot_pending: 'REBOOT',
    reboot_started: 'REBOOT',
    rebooting_hard: 'HARD_REBOOT',
    reboot_pending_hard: 'HARD_REBOOT',
    reboot_started_hard: 'HARD_REBOOT',
    updating_password: 'PASSWORD',
    rebuilding: 'REBUILD',
    rebuild_block_device_mapping: 'REBUILD',
    rebuild_spawning: 'REBUILD',
    migrating: 'MIGRATING',
    resize_prep: 'RESIZE',
    resize_migrating: 'RESIZE',
    resize_migrated: 'RESIZE',
    resize_finish: 'RESIZE',
  },
  building: { default: 'BUILD' },
  stopped: {
    default: 'SHUTOFF',
    resize_prep: 'RESIZE',
    resize_migrating: 'RESIZE',
    resize_migrated: 'RESIZE',
    resize_finish: 'RESIZE',
    rebuilding: 'REBUILD',
    rebuild_block_device_mapping: 'REBUILD',
    rebuild_spawning: 'REBUILD',
  },
  resized: { default: 'VERIFY_RESIZE', resize_reverting: 'REVERT_RESIZE' },
  paused: { default: 'PAUSED', migrating: 'MIGRATING' },
  suspended: { default: 'SUSPENDED' },
  rescued: { default: 'RESCUE' },
  error: {
    default: 'ERROR',
    rebuilding: 'REBUILD',
    rebuild_block_device_mapping: 'REBUILD',
    rebuild_spawning: 'REBUILD',
  },
  deleted: { default: 'DELETED' },
  'soft-delete': { default: 'SOFT_DELETED' },
  shelved: { default: 'SHELVED' },
  shelved_offloaded: { default: 'SHELVED_OFFLOADED' },
}

/** The status that the API shows. */
export function statusOf(vmState: string, taskState: string | null): string {
  const of = STATUS[vmState]
  return (taskState !== null && of?.[taskState]) || of?.default || 'UNKNOWN'
}

/** The states behind statuses, in any case of letters, for filters. Task states are null where any will do. */
export function statesOf(statuses: readonly string[]): { vmStates: string[]; taskStates: string[] | null } {
  const wanted = new Set(statuses.map(s => s.toUpperCase()))
  const vmStates = new Set<string>()
  const taskStates = new Set<string>()
  for (const [vmState, tasks] of Object.entries(STATUS)) {
    for (const [task, status] of Object.entries(tasks)) {
      if (!wanted.has(status)) continue
      vmStates.add(vmState)
      taskStates.add(task)
    }
  }
  return { vmStates: [...vmStates], taskStates: taskStates.has('default') ? null : [...taskStates] }
}

/** The power states as the API numbers them. */
export const POWER = { nostate: 0, running: 1, paused: 3, shutdown: 4, crashed: 6, suspended: 7 } as const

/** What the host sees, as the API numbers it. */
export const powerNumber = (power: GuestPower): number =>
  ({
    running: POWER.running,
    paused: POWER.paused,
    suspended: POWER.suspended,
    off: POWER.shutdown,
    crashed: POWER.crashed,
  })[power]
