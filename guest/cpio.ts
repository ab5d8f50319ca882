/** A cpio archive in the "newc" format, as the kernel unpacks it for its initial file system. */

export interface CpioEntry {
  path: string
  /** Type and permission bits, as in stat(2). */
  mode: number
  data?: Uint8Array
  /** Major and minor number of a device file. */
  device?: [number, number]
}

const TRAILER = 'TRAILER!!!'

function padded(bytes: Uint8Array): Buffer {
  const rest = (4 - (bytes.length % 4)) % 4
  return rest === 0 ? Buffer.from(bytes) : Buffer.concat([bytes, Buffer.alloc(rest)])
}

/** The archive of these entries, all owned by root and without dates; folders must come before what is in them. */
export function cpio(entries: readonly CpioEntry[]): Buffer {
  return Buffer.concat(
    [...entries, { path: TRAILER, mode: 0 }].flatMap(
      ({ path, mode, data = new Uint8Array(), device = [0, 0] }: CpioEntry, index) => {
        const name = Buffer.from(`${path}\0`)
        const fields = [index + 1, mode, 0, 0, 1, 0, data.length, 0, 0, ...device, name.length, 0]
        const header = `070701${fields.map(field => field.toString(16).padStart(8, '0')).join('')}`
        return [padded(Buffer.concat([Buffer.from(header), name])), padded(data)]
      },
    ),
  )
}
