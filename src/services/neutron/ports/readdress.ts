import { sql, type Tx } from '#kit/db/index.ts'
import type { Env } from '#kit/service.ts'
import { parseAddress, showAddress } from '../address.ts'
import type { Row } from '../api/resource.ts'
import { contradicts } from '../faults.ts'
import type { NetworkFacts } from '../networks/facts.ts'
import { neutronSettings } from '../settings.ts'
import { type FixedIp, isAuto, subnetsKnown, takeWanted, type WantedIp } from './allocate.ts'

/**
 * Makes a port's addresses those that are wanted: kept where they match (the address itself, or any of the subnet), the rest given back,
 * new ones taken. A floating IP of an address that is given back is disassociated.
 */
export async function fixedIpsReplace(
  env: Env,
  tx: Tx,
  row: Row,
  network: NetworkFacts,
  wants: readonly WantedIp[],
): Promise<void> {
  if (wants.length > env.config.of(neutronSettings).max_fixed_ips_per_port)
    throw contradicts('Exceeded maximum amount of fixed ips per port')
  await subnetsKnown(tx, wants)
  const id = row.id as string
  const left = [...(row.fixed as FixedIp[])]
  const plan = wants.map(want => ({ want, keep: undefined as FixedIp | undefined }))
  const keepWhere = (pick: (want: WantedIp, ip: FixedIp) => boolean): void => {
    for (const entry of plan) {
      if (entry.keep) continue
      const at = left.findIndex(ip => pick(entry.want, ip))
      if (at >= 0) entry.keep = left.splice(at, 1)[0]
    }
  }
  keepWhere((want, ip) => want.ip_address !== undefined && showAddress(parseAddress(want.ip_address)!) === ip.ip_address)
  keepWhere((want, ip) => want.ip_address === undefined && want.subnet_id === ip.subnet_id)
  const kept = plan.flatMap(entry => entry.keep ?? [])
  await giveBack(tx, id, left)
  for (const [place, ip] of kept.entries()) await placeSet(tx, id, ip, place)
  const taking = { networkId: network.id, portId: id, mac: row.mac_address as string, deviceOwner: row.device_owner as string }
  const fresh = plan.filter(entry => !entry.keep).map(entry => entry.want)
  // Self-numbering subnets in which an address was kept must not give another.
  const kinds = new Set(kept.map(ip => ip.subnet_id))
  const open = network.subnets.filter(subnet => !isAuto(subnet) || !kinds.has(subnet.id))
  if (fresh.length > 0) await takeWanted(tx, taking, open, fresh, kept.length)
}

async function giveBack(tx: Tx, portId: string, ips: readonly FixedIp[]): Promise<void> {
  for (const { subnet_id, ip_address } of ips) {
    await tx
      .deleteFrom('neutron.ip_allocations')
      .where('port_id', '=', portId)
      .where('subnet_id', '=', subnet_id)
      .where(sql<boolean>`ip = ${ip_address}::inet`)
      .execute()
    await tx
      .updateTable('neutron.floating_ips')
      .set({ port_id: null, fixed_ip_address: null, router_id: null, status: 'DOWN', updated_at: sql`now()` })
      .where('port_id', '=', portId)
      .where(sql<boolean>`fixed_ip_address = ${ip_address}::inet`)
      .execute()
  }
}

const placeSet = (tx: Tx, portId: string, ip: FixedIp, place: number) =>
  tx
    .updateTable('neutron.ip_allocations')
    .set({ place })
    .where('port_id', '=', portId)
    .where('subnet_id', '=', ip.subnet_id)
    .where(sql<boolean>`ip = ${ip.ip_address}::inet`)
    .execute()
