// What the guest uses, from QEMU and the kernel, in the form of the diagnostics API (microversion 2.48).
import { readFile } from 'node:fs/promises'
import { diskDeviceId } from '#host/qemu/devices.ts'
import { parseStat } from '#host/qemu/process.ts'
import type { Qmp } from '#host/qemu/qmp.ts'
import { run } from '#host/run.ts'
import type { Diagnostics } from '../../../spec.ts'
import type { Host, Live } from './live.ts'

const TICK_NS = 10_000_000 // USER_HZ is 100 on every Linux that Node runs on

interface BlockStats {
  qdev?: string
  stats: Record<string, number>
}

/** `ip -s -j link show dev TAP`, from the guest's side: what the tap sends the guest receives. Pure. */
export function parseTapStats(
  text: string,
): Record<'rx' | 'tx', { bytes: number; packets: number; dropped: number; errors: number }> {
  const [link] = JSON.parse(text) as {
    stats64: Record<'rx' | 'tx', { bytes: number; packets: number; dropped: number; errors: number }>
  }[]
  if (!link?.stats64) throw new Error(`no statistics in: ${text.slice(0, 200)}`)
  return { rx: link.stats64.tx, tx: link.stats64.rx }
}

async function nicStats(host: Host, tap: string, mac: string): Promise<Diagnostics['nics'][number]> {
  const { rx, tx } = parseTapStats((await run(['ip', '-s', '-j', 'link', 'show', 'dev', tap], { netns: host.netns })).stdout)
  return {
    mac,
    rxOctets: rx.bytes,
    rxPackets: rx.packets,
    rxDrop: rx.dropped,
    rxErrors: rx.errors,
    rxRate: null,
    txOctets: tx.bytes,
    txPackets: tx.packets,
    txDrop: tx.dropped,
    txErrors: tx.errors,
    txRate: null,
  }
}

/** Diagnostics of a guest that has a process. */
export async function guestDiagnostics(host: Host, live: Live, qmp: Qmp): Promise<Diagnostics> {
  const { spec, power, started } = live.record
  const cpus = await qmp.execute<{ 'cpu-index': number; 'thread-id': number }[]>('query-cpus-fast')
  const blocks = await qmp.execute<BlockStats[]>('query-blockstats')
  const pid = live.pid?.pid
  return {
    state: power === 'running' || power === 'paused' || power === 'suspended' || power === 'crashed' ? power : 'shutdown',
    driver: 'libvirt',
    hypervisor: host.accel === 'kvm' ? 'kvm' : 'qemu',
    hypervisorOs: 'linux',
    uptimeSeconds: started === undefined ? null : Math.floor((Date.now() - Date.parse(started)) / 1000),
    configDrive: spec.configDrive !== undefined,
    cpus: await Promise.all(
      cpus.map(async cpu => ({
        id: cpu['cpu-index'],
        timeNs: parseStat(await readFile(`/proc/${pid}/task/${cpu['thread-id']}/stat`, 'utf8')).ticks * TICK_NS,
        utilisation: null,
      })),
    ),
    memory: { maximumMb: spec.memoryMb, usedMb: spec.memoryMb },
    disks: spec.disks.flatMap(disk => {
      const id = diskDeviceId(disk.name)
      const found = blocks.find(b => b.qdev === id || b.qdev?.startsWith(`/machine/peripheral/${id}/`))
      if (!found) return []
      const {
        rd_bytes = 0,
        rd_operations = 0,
        wr_bytes = 0,
        wr_operations = 0,
        failed_rd_operations = 0,
        failed_wr_operations = 0,
      } = found.stats
      return [
        {
          readBytes: rd_bytes,
          readRequests: rd_operations,
          writeBytes: wr_bytes,
          writeRequests: wr_operations,
          errorsCount: failed_rd_operations + failed_wr_operations,
        },
      ]
    }),
    nics: await Promise.all(spec.nics.map(nic => nicStats(host, nic.tap, nic.mac))),
  }
}
