/**
 * What an image really is, told from its bytes as they stream by. A tenant's image is untrusted: a qcow2 may name any file of the host as its
 * backing file, and qemu would open it. So a format is never believed because somebody said so (OSSA-2024-001, CVE-2024-32498).
 *
 * Headers are at the start (ISO's at 32 KiB, a VHD's copy of its footer too); all that decides lies within the first bytes, so an inspection keeps
 * those and counts the rest.
 */
import { gpt, iso, luks, qcow2, qed, vdi, vhd, vhdx, vmdk } from './formats.ts'

/** What a parser found. */
export interface Finding {
  format: string
  /** Bytes of the disk that a guest would see. */
  virtualSize?: number
  /** Why it must not be used, whatever it was declared to be. */
  danger?: string
}

/** Looks at the start of a file; undefined when it is not of this format. */
export type Parser = (head: Buffer) => Finding | undefined

const PARSERS: readonly Parser[] = [qcow2, qed, vmdk, vhdx, vhd, vdi, luks, iso, gpt]

/** How much of a file's start decides. */
export const HEAD_BYTES = 256 * 1024

export interface Inspection {
  /** Feed with each chunk as it passes. */
  add(chunk: Buffer): void
  /** What it is; `raw` when no format is recognised. */
  finish(): Finding
  /** True once the head is complete: `finish` will say no more than it can now. */
  readonly decided: boolean
}

/** Inspects a stream. */
export function inspection(): Inspection {
  const parts: Buffer[] = []
  let kept = 0
  let size = 0
  return {
    add(chunk) {
      size += chunk.length
      if (kept >= HEAD_BYTES) return
      const part = chunk.subarray(0, HEAD_BYTES - kept)
      parts.push(Buffer.from(part)) // chunks may be reused by their source
      kept += part.length
    },
    get decided() {
      return kept >= HEAD_BYTES
    },
    finish() {
      const head = Buffer.concat(parts)
      for (const parser of PARSERS) {
        const found = parser(head)
        if (found)
          return found.virtualSize === undefined && ['gpt', 'iso'].includes(found.format)
            ? { ...found, virtualSize: size }
            : found
      }
      return { format: 'raw', virtualSize: size }
    },
  }
}

/** Declared disk formats whose content cannot be told from raw bytes: kernels, ramdisks, machine images, and raw itself. */
const OPAQUE = new Set(['raw', 'aki', 'ari', 'ami'])
/** What else than itself a content may rightly be declared as. A partition table makes a raw disk, or a hybrid ISO. */
const ALSO: Record<string, readonly string[]> = {
  gpt: ['raw', 'iso', 'ami'],
  raw: ['ploop'],
  iso: ['raw'],
  luks: ['raw', 'luks'],
}

/** Why an image of this declared format must not have this content; undefined when it may. */
export function objection(declared: string, found: Finding): string | undefined {
  if (found.danger) return found.danger
  if (found.format === declared || ALSO[found.format]?.includes(declared)) return undefined
  if (found.format === 'raw') {
    return OPAQUE.has(declared) ? undefined : `the content is not ${declared}: no header of that format was found`
  }
  return `the content is ${found.format}, but the image says ${declared}`
}
