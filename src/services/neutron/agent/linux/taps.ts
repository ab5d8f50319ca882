// Guests' taps coming and going, told by the kernel: one `ip monitor link` that is kept running.
import { type Followed, follow, type RunPlace } from '#host/run.ts'
import { TAP } from '../names.ts'

export interface TapEvent {
  tap: string
  there: boolean
  /** In a bridge. */
  plugged: boolean
}

/**
 * The event in one line of `ip -o monitor link`, if it is about a tap: '7: tap12345678-ab: <BROADCAST,…> … master brq… state DOWN …', or the same
 * after 'Deleted '. A bridge also says 'Deleted' when a port leaves it; such a line names the bridge as master.
 */
export function parseTapEvent(line: string): TapEvent | null {
  const found = /^(Deleted )?\d+: (tap[^:@\s]+)(?:@\S+)?: <[^>]*>(.*)$/.exec(line)
  if (!found || !TAP.test(found[2] as string)) return null
  const plugged = / master \S+ /.test(found[3] as string)
  if (found[1] && plugged) return null
  return { tap: found[2] as string, there: !found[1], plugged }
}

/** Calls back for each change of a tap. The monitor is started again if it ends by itself. */
export async function watchTaps(
  place: RunPlace,
  heard: (event: TapEvent) => void,
  ended: (words: string) => void,
): Promise<() => Promise<void>> {
  let followed: Followed
  let stopped = false
  const start = async () => {
    const mine = await follow(
      ['ip', '-o', 'monitor', 'link'],
      line => {
        const event = parseTapEvent(line)
        if (event) heard(event)
      },
      place,
    )
    followed = mine
    void mine.ended.then(({ code, signal, stderr }) => {
      if (stopped) return
      ended(`ip monitor ended (${signal ?? code}): ${stderr.trim()}`)
      start().catch((error: Error) => ended(error.message))
    })
  }
  await start()
  return async () => {
    stopped = true
    await followed.stop()
  }
}
