/** What a VNC screen shows, over a console's WebSocket: enough of RFB 3.8 (RFC 6143) to see that there is a picture and text on it. */
import { once } from 'node:events'
import { WebSocket } from 'ws'

export interface Screen {
  width: number
  height: number
  /** Pixels by colour. */
  colours: Map<number, number>
}

/** Opens the console behind a page's URL as its page does, and takes one picture. Rejects when the far end does not speak RFB. */
export async function screenOf(pageUrl: string, ca?: string): Promise<Screen> {
  const page = new URL(pageUrl)
  const socket = new WebSocket(new URL(`/${page.searchParams.get('path')!}`, page.origin.replace(/^http/, 'ws')), 'binary', {
    ca,
  })
  const read = reader(socket)
  try {
    await once(socket, 'open')
    const version = (await read(12)).toString()
    if (!version.startsWith('RFB 003.')) throw new Error(`the console says ${JSON.stringify(version)} and not RFB`)
    socket.send('RFB 003.008\n')
    const kinds = await read((await read(1))[0]!)
    if (!kinds.includes(1)) throw new Error(`the console offers security types ${[...kinds]} and not 'none'`)
    socket.send(Buffer.from([1]))
    if ((await read(4)).readUInt32BE() !== 0) throw new Error('the console refused')
    socket.send(Buffer.from([1])) // shared
    const init = await read(24)
    await read(init.readUInt32BE(20)) // name
    const [width, height] = [init.readUInt16BE(0), init.readUInt16BE(2)]
    // 32 bits a pixel, little end first, raw.
    socket.send(Buffer.from([0, 0, 0, 0, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0]))
    socket.send(Buffer.from([2, 0, 0, 1, 0, 0, 0, 0]))
    const ask = Buffer.from([3, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    ask.writeUInt16BE(width, 6)
    ask.writeUInt16BE(height, 8)
    socket.send(ask)
    const colours = new Map<number, number>()
    const [kind, , high, low] = await read(4)
    if (kind !== 0) throw new Error(`the console sent message ${kind} and no picture`)
    for (let left = high! * 256 + low!; left > 0; left--) {
      const box = await read(12)
      const pixels = await read(box.readUInt16BE(4) * box.readUInt16BE(6) * 4)
      for (let at = 0; at < pixels.length; at += 4) {
        const colour = pixels.readUInt32LE(at) & 0xffffff
        colours.set(colour, (colours.get(colour) ?? 0) + 1)
      }
    }
    return { width, height, colours }
  } finally {
    socket.terminate()
  }
}

/** Reads so many bytes at a time, in order. */
function reader(socket: WebSocket): (bytes: number) => Promise<Buffer> {
  let have = Buffer.alloc(0)
  let ended: Error | undefined
  let wake = (): void => {}
  socket.on('message', data => {
    have = Buffer.concat([have, data as Buffer])
    wake()
  })
  socket.on('error', error => {
    ended = error
    wake()
  })
  socket.on('close', code => {
    ended ??= new Error(`the console closed the connection (${code})`)
    wake()
  })
  return async bytes => {
    const end = setTimeout(() => {
      ended ??= new Error('the console went silent')
      wake()
    }, 30_000)
    try {
      while (have.length < bytes) {
        if (ended) throw ended
        await new Promise<void>(resolve => {
          wake = resolve
        })
      }
    } finally {
      clearTimeout(end)
    }
    const part = have.subarray(0, bytes)
    have = have.subarray(bytes)
    return part
  }
}
