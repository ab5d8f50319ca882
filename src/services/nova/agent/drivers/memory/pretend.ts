// What a pretended guest shows to the outside must be real enough for real clients: a snapshot is a valid qcow2, a screen speaks RFB.
import { Duplex } from 'node:stream'

/** A serial port on which what is typed comes back. */
export function pretendedSerial(): Duplex {
  const port = new Duplex({
    read: () => undefined,
    write(chunk: Buffer, _encoding, done) {
      port.push(chunk)
      done()
    },
    final(done) {
      port.push(null)
      done()
    },
  })
  return port
}

const WIDTH = 320
const HEIGHT = 200

/**
 * A screen of one colour for one RFB client (RFC 6143, version 3.8, no authentication): enough for noVNC to connect and show it.
 * Full updates are answered; incremental ones have nothing new to say. Keys and pointer are taken and ignored.
 */
export function pretendedScreen(name: string): Duplex {
  let got = Buffer.alloc(0)
  let step: 'version' | 'security' | 'init' | 'running' = 'version'
  let bytesPerPixel = 4
  const screen = new Duplex({
    read: () => undefined,
    write(chunk: Buffer, _encoding, done) {
      got = Buffer.concat([got, chunk])
      for (let used = take(); used > 0; used = take()) got = got.subarray(used)
      done()
    },
    final(done) {
      screen.push(null)
      done()
    },
  })

  /** Handles one message at the start of what came in; gives its length, 0 when it is not whole yet. */
  function take(): number {
    if (step === 'version') return need(12, () => answer(Buffer.of(1, 1), 'security'))
    if (step === 'security') return need(1, () => answer(Buffer.alloc(4), 'init'))
    if (step === 'init') return need(1, () => answer(serverInit(name), 'running'))
    const type = got[0]
    if (type === 0)
      return need(20, () => {
        bytesPerPixel = Math.max(1, (got[4] as number) >> 3)
      })
    if (type === 2) return got.length < 4 ? 0 : need(4 + 4 * got.readUInt16BE(2), () => undefined)
    if (type === 3) return need(10, () => got[1] === 0 && screen.push(update()))
    if (type === 4) return need(8, () => undefined)
    if (type === 5) return need(6, () => undefined)
    if (type === 6) return got.length < 8 ? 0 : need(8 + got.readUInt32BE(4), () => undefined)
    if (type !== undefined) screen.destroy(new Error(`RFB message of unknown type ${type}`))
    return 0
  }
  function need(bytes: number, act: () => void): number {
    if (got.length < bytes) return 0
    act()
    return bytes
  }
  function answer(bytes: Buffer, next: typeof step): void {
    screen.push(bytes)
    step = next
  }
  function update(): Buffer {
    const head = Buffer.alloc(16)
    head.writeUInt16BE(1, 2) // one rectangle, raw encoding
    head.writeUInt16BE(WIDTH, 8)
    head.writeUInt16BE(HEIGHT, 10)
    return Buffer.concat([head, Buffer.alloc(WIDTH * HEIGHT * bytesPerPixel, 0x30)])
  }
  screen.push('RFB 003.008\n')
  return screen
}

/** Size, 32-bit true colour, name. */
function serverInit(name: string): Buffer {
  const text = Buffer.from(name)
  const head = Buffer.alloc(24)
  head.writeUInt16BE(WIDTH, 0)
  head.writeUInt16BE(HEIGHT, 2)
  head.set([32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0], 4)
  head.writeUInt32BE(text.length, 20)
  return Buffer.concat([head, text])
}
