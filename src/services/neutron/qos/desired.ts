// What a policy's rules ask of the host of a port.
import type { DesiredLimits, DesiredQos } from '../verbs.ts'

export interface QosRuleRow {
  type: string
  direction: string | null
  params: Record<string, number>
}

/** Bursts that no rule gives are this part of a second at the full rate. */
const BURST = 0.8

/** A rule of 0 is kept and shown; it limits nothing, as upstream's drivers have it. */
function limit(rate: number | undefined, burst: number | undefined): { rate: number; burst: number } | null {
  if (!rate) return null
  return { rate, burst: burst || Math.max(1, Math.round(rate * BURST)) }
}

/** The rules of the policy that a port follows, as its host is told; null: it asks nothing of a host. */
export function qosOf(rules: readonly QosRuleRow[]): DesiredQos | null {
  const find = (type: string, direction?: string) =>
    rules.find(rule => rule.type === type && (direction === undefined || rule.direction === direction))?.params
  const limits = (direction: string): DesiredLimits => {
    const bits = find('bandwidth_limit', direction)
    const packets = find('packet_rate_limit', direction)
    const bandwidth = limit(bits?.max_kbps, bits?.max_burst_kbps)
    const perSecond = limit((packets?.max_kpps ?? 0) * 1000, (packets?.max_burst_kpps ?? 0) * 1000)
    return { bandwidth: bandwidth && { kbps: bandwidth.rate, burst: bandwidth.burst }, packets: perSecond }
  }
  const qos = { egress: limits('egress'), ingress: limits('ingress'), dscp: find('dscp_marking')?.dscp_mark ?? null }
  const none = [qos.egress, qos.ingress].every(side => !side.bandwidth && !side.packets) && qos.dscp === null
  return none ? null : qos
}
