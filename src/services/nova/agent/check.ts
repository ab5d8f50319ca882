/** The refusals of specs that no driver could ever make, before anything is touched. */
import { badRequest } from '#kit/fault.ts'
import type { GuestSpec } from '../spec.ts'

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/
const MACHINE = /^(q35|pc|pc-q35-[\w.]+|pc-i440fx-[\w.]+)$/
const CPU_MODEL = /^[\w.+-]{1,64}$/

/** Faults: badRequest, with the field. */
export function specCheck(spec: GuestSpec): void {
  idCheck(spec.id)
  const refuse = (field: string, message: string) => {
    throw badRequest(message, { field })
  }
  if (!MACHINE.test(spec.machine ?? 'q35'))
    throw badRequest(`Machine type '${spec.machine}' is not supported; q35 and pc are.`, {
      type: 'InvalidMachineType',
      field: 'machine',
    })
  if (!Number.isInteger(spec.vcpus) || spec.vcpus < 1)
    refuse('vcpus', `A guest needs a processor; ${spec.vcpus} is no number of them.`)
  if (!Number.isInteger(spec.memoryMb) || spec.memoryMb < 1)
    refuse('memoryMb', `A guest needs memory; ${spec.memoryMb} MiB is none.`)
  if (spec.cpuModel !== undefined && !CPU_MODEL.test(spec.cpuModel)) refuse('cpuModel', `'${spec.cpuModel}' is not a CPU model.`)
  const names = new Set<string>()
  for (const disk of spec.disks) {
    if (!/^[\w-]{1,64}$/.test(disk.name) || names.has(disk.name))
      refuse('disks', `'${disk.name}' is not a disk's name, or not its only one.`)
    names.add(disk.name)
  }
  const ports = new Set<string>()
  for (const nic of spec.nics) {
    if (!UUID.test(nic.portId) || ports.has(nic.portId)) refuse('nics', `'${nic.portId}' is not a port's id, or twice.`)
    if (!/^[\w.-]{1,15}$/.test(nic.tap)) refuse('nics', `'${nic.tap}' is not a device's name.`)
    if (!/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/i.test(nic.mac)) refuse('nics', `'${nic.mac}' is not a MAC address.`)
    ports.add(nic.portId)
  }
}

/** Faults: badRequest. */
export function idCheck(id: string): void {
  if (!UUID.test(id)) throw badRequest(`'${id}' is not the id of a guest.`, { field: 'id' })
}
