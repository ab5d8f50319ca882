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

/**
 * Makes a tap that belongs to `uid`, with this MTU, up. One that is there with another owner or queue mode (a leftover) is made anew.
 * @throws RunError with ip's words; TypeError for a name that cannot be one.
 */
export async function tapEnsure(
  tap: { name: string; uid: number; mtu: number; multiQueue: boolean },
  netns?: string,
): Promise<void> {
  // Names go into a batch of lines: no blanks, and the kernel takes 15 bytes.
  if (!/^[\w.-]{1,15}$/.test(tap.name)) throw new TypeError(`not a device name: ${tap.name}`)
  const found = (await tapList(netns)).find(t => t.name === tap.name)
  const fits = found && found.uid === tap.uid && found.multiQueue === tap.multiQueue
  if (fits && found.up && found.mtu === tap.mtu) return
  if (found && !fits) await tapRemove(tap.name, netns)
  const queues = tap.multiQueue ? ' multi_queue' : ''
  const lines = [
    ...(fits ? [] : [`tuntap add dev ${tap.name} mode tap user ${tap.uid}${queues}`]),
    // No IPv6 address of the host's on it: the wire belongs to the guest.
    `link set dev ${tap.name} addrgenmode none`,
    `link set dev ${tap.name} mtu ${tap.mtu} up`,
  ]
  await run(['ip', '-batch', '-'], { netns, input: `${lines.join('\n')}\n` })
}

/** Removes a tap; fine when it is not there. */
export async function tapRemove(name: string, netns?: string): Promise<void> {
  const { code, stderr } = await run(['ip', 'link', 'delete', 'dev', name], { netns, codes: [0, 1, 2] })
  if (code !== 0 && !/Cannot find device|does not exist/.test(stderr)) throw new Error(`ip link delete ${name}: ${stderr.trim()}`)
}
