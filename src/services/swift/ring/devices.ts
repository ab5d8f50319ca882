/** Devices as the commands for rings write them: `r1z2-10.0.0.1:6200R10.1.0.1:6200/sda_about it`. */
import type { Device } from '../http/client.ts'
import type { Builder } from './builder.ts'

const host = (ip: string): string => (ip.includes(':') ? `[${ip}]` : ip)

/** A device in a line, without its id and weight. */
export function formatDevice(d: Device): string {
  const replication =
    d.replicationIp === d.ip && d.replicationPort === d.port ? '' : `R${host(d.replicationIp)}:${d.replicationPort}`
  return `r${d.region}z${d.zone}-${host(d.ip)}:${d.port}${replication}/${d.device}_${d.meta}`
}

const ADDRESS = String.raw`(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):(\d+)`
const NEW = new RegExp(`^(?:r(\\d+))?z(\\d+)-${ADDRESS}(?:R${ADDRESS})?/([^_/\\s]+)(?:_(.*))?$`)

const plain = (ip: string): string => ip.replace(/^\[|\]$/g, '')

/** A new device. Throws Error naming what is wrong. */
export function parseDevice(text: string, weight: string): Omit<Device, 'id'> {
  const match = NEW.exec(text)
  if (!match) throw new Error(`'${text}' is no device: [rREGION]zZONE-IP:PORT[RIP:PORT]/DEVICE[_META]`)
  const [, region, zone, ip, port, replicationIp, replicationPort, device, meta] = match
  for (const one of [port, replicationPort])
    if (one !== undefined && (Number(one) < 1 || Number(one) > 65535)) throw new Error(`'${one}' is no port`)
  return {
    region: Number(region ?? 1),
    zone: Number(zone),
    ip: plain(ip!),
    port: Number(port),
    replicationIp: plain(replicationIp ?? ip!),
    replicationPort: Number(replicationPort ?? port),
    device: device!,
    weight: parseWeight(weight),
    meta: meta ?? '',
  }
}

/** A weight. Throws Error for what is none. */
export function parseWeight(text: string): number {
  const weight = Number(text)
  if (text === '' || !(weight >= 0) || !Number.isFinite(weight)) throw new Error(`'${text}' is no weight: a number from 0`)
  return weight
}

const SEARCH = /^(?:d(\d+))?(?:r(\d+))?(?:z(\d+))?(?:-(\[[0-9a-fA-F:.]+\]|[^\s:/[\]]+))?(?::(\d+))?(?:\/([^_/\s]+))?(?:_(.*))?$/

/** The devices that fit `dIDrREGIONzZONE-IP:PORT/DEVICE_META`, of which each part may be left out. Throws Error when none fits. */
export function findDevices(b: Builder, text: string): Device[] {
  const match = text === '' ? null : SEARCH.exec(text)
  if (!match) throw new Error(`'${text}' finds no device: [dID][rREGION][zZONE][-IP][:PORT][/DEVICE][_META]`)
  const [, id, region, zone, ip, port, device, meta] = match
  const found = b.devices.filter(
    (d): d is Device =>
      d !== null &&
      (id === undefined || d.id === Number(id)) &&
      (region === undefined || d.region === Number(region)) &&
      (zone === undefined || d.zone === Number(zone)) &&
      (ip === undefined || d.ip === plain(ip)) &&
      (port === undefined || d.port === Number(port)) &&
      (device === undefined || d.device === device) &&
      (meta === undefined || d.meta === meta),
  )
  if (found.length === 0) throw new Error(`there is no device '${text}'`)
  return found
}
