// A guest for tests, as small as a guest can be: a boot sector of 166 bytes on a disk of 1 MiB, ready within a second under TCG. It
//   - counts its boots in the disk's second sector, and says "boot N" and "ready" on the first serial port: so a disk is seen to last,
//   - echoes what comes in on the serial port; 'r' resets the machine, 'p' powers it off,
//   - powers off when the ACPI power button is pressed, as an orderly guest does.
//
// Real mode; DL is the boot drive; SeaBIOS puts the ACPI registers at 0x600:
//   sp=0x7c00; int 13h read sector 2 to 0x8000; inc byte [0x8000]; int 13h write; puts "boot "; putc '0'+[0x8000]; puts "\r\nready\r\n";
//   out 0x602, 0x100 (PM1_EN: power button); sti; loop: hlt; in 0x600; bit 8 set? off; in 0x3fd; byte there? in 0x3f8: 'p' off, 'r' reset, else
//   putc; off: out 0x604, 0x2000 (PM1_CNT: sleep type 0 = S5, sleep enable); reset: out 0x64, 0xfe
import { createHash } from 'node:crypto'
import type { ImageRef } from '../spec.ts'

const CODE =
  '31c08ed88ec08ed0bc007c8816a57cb80102e85800fe060080b80103e84e00be957ce85700a000800430e85900be9b7ce84900ba0206b80001effbf4ba0006edf6c4017519bafd03eca80174eebaf803ec3c7074093c72740ee82a00ebe7ba0406b80020efebd4b0fee664ebcebb0080b902008a16a57cb600cd13c3ac84c07413e80200ebf650bafd03eca82074fb58baf803eec3626f6f7420000d0a72656164790d0a0000'

/** The disk's bytes. `salt` makes another image of it. */
export function testGuestDisk(salt = ''): Buffer {
  const disk = Buffer.alloc(1 << 20)
  Buffer.from(CODE, 'hex').copy(disk, 0)
  disk.writeUInt16LE(0xaa55, 510)
  disk.write(salt, 4096)
  return disk
}

/** The image as Glance would describe it. */
export function testGuestImage(id: string, disk = testGuestDisk()): ImageRef {
  return {
    id,
    format: 'raw',
    size: disk.length,
    checksum: { algorithm: 'sha256', hex: createHash('sha256').update(disk).digest('hex') },
  }
}
