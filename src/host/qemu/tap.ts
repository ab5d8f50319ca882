// Taps: a guest's end of its network. They are persistent devices owned by the guest's user, who may then open them without privilege, and
// they outlive QEMU; a network agent sees one appear by its name and plugs it into its bridge.
import { run } from '../run.ts'

interface LinkJson {
  ifname: string
  mtu?: number
  flags?: string[]
  linkinfo?: { info_kind?: string; info_data?: { type?: string; user?: string | number; multi_queue?: boolean } }
}

export interface Tap {
  name: string
  /** Owner, if it has one. */
  uid?: number
  multiQueue: boolean
  mtu?: number
  up: boolean
}

/** `ip -d -j link show type tun`. Pure. `ip` prints the owner's name where the number has one. */
export function parseTaps(text: string): Tap[] {
  // iproute2 prints nothing at all, or an empty array, when there is none.
  const links = (text.trim() ? JSON.parse(text) : []) as LinkJson[]
  return links
    .filter(link => link.linkinfo?.info_data?.type === 'tap')
    .map(link => {
      const user = link.linkinfo?.info_data?.user
      const uid = user === undefined || !/^\d+$/.test(String(user)) ? undefined : Number(user)
      return {
        name: link.ifname,
        ...(uid !== undefined && { uid }),
        multiQueue: link.linkinfo?.info_data?.multi_queue === true,
        mtu: link.mtu,
        up: link.flags?.includes('UP') === true,
      }
    })
}

/** All taps of a network namespace. */
export async function tapList(netns?: string): Promise<Tap[]> {
  return parseTaps((await run(['ip', '-d', '-j', 'link', 'show', 'type', 'tun'], { netns })).stdout)
}

export interface WantedTap {
  name: string
  mtu: number
  multiQueue: boolean
}

/**
 * Makes the taps of user `uid` those `wanted`: there, its own, with their MTU, up; others of the user are removed. One that is there with
 * another owner or queue mode (a leftover) is made anew. What is right is not touched. `fresh`: most likely none of them is there, and the user
 * has no other.
 * @throws RunError with ip's words; TypeError for a name that cannot be one.
 */
export async function tapsEnsure(uid: number, wanted: readonly WantedTap[], netns?: string, fresh = false): Promise<void> {
  for (const { name } of wanted) {
    // Names go into a batch of lines: no blanks, and the kernel takes 15 bytes.
    if (!/^[\w.-]{1,15}$/.test(name)) throw new TypeError(`not a device name: ${name}`)
  }
  const batch = (lines: readonly string[]) => run(['ip', '-batch', '-'], { netns, input: `${lines.join('\n')}\n` })
  if (fresh && wanted.length > 0) {
    try {
      await batch(wanted.flatMap(tap => [addLine(uid, tap), ...setLines(tap)]))
      return
    } catch {
      // One is there after all, or cannot be made: what follows finds out.
    }
  }
  const found = new Map((await tapList(netns)).map(tap => [tap.name, tap]))
  const names = new Set(wanted.map(tap => tap.name))
  const lines: string[] = []
  for (const tap of found.values()) if (tap.uid === uid && !names.has(tap.name)) lines.push(`link delete dev ${tap.name}`)
  for (const tap of wanted) {
    const { name, mtu, multiQueue } = tap
    const old = found.get(name)
    const fits = old && old.uid === uid && old.multiQueue === multiQueue
    if (fits && old.up && old.mtu === mtu) continue
    if (old && !fits) lines.push(`link delete dev ${name}`)
    if (!fits) lines.push(addLine(uid, tap))
    lines.push(...setLines(tap))
  }
  if (lines.length > 0) await batch(lines)
}

const addLine = (uid: number, { name, multiQueue }: WantedTap): string =>
  `tuntap add dev ${name} mode tap user ${uid}${multiQueue ? ' multi_queue' : ''}`
/** No IPv6 address of the host's on it: the wire belongs to the guest. */
const setLines = ({ name, mtu }: WantedTap): string[] => [
  `link set dev ${name} addrgenmode none`,
  `link set dev ${name} mtu ${mtu} up`,
]

/** Removes a tap; fine when it is not there. */
export async function tapRemove(name: string, netns?: string): Promise<void> {
  const { code, stderr } = await run(['ip', 'link', 'delete', 'dev', name], { netns, codes: [0, 1, 2] })
  if (code !== 0 && !/Cannot find device|does not exist/.test(stderr)) throw new Error(`ip link delete ${name}: ${stderr.trim()}`)
}
