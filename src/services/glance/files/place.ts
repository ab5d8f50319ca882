/** Somewhere that files of bytes can be put, under names that are used once: a folder of this machine, or a container of object storage. */
import type { Readable } from 'node:stream'

/** A file being written. Bytes are on their way while the next are gathered. */
export interface Part {
  open(): Promise<void>
  add(chunk: Buffer): Promise<void>
  /** Everything is safe under the final name. */
  finish(): Promise<void>
  /** Nothing is left. */
  drop(): Promise<void>
}

export interface Place {
  /** For logs and for an operator. */
  readonly name: string
  /** Begins a file of that name. */
  part(file: string): Part
  /** Its bytes, from `start` up to and including `end`. Throws when it is not there. */
  read(file: string, range?: { start: number; end: number }): Promise<Readable>
  /** Removes it, and what an upload of that name left. Fine when nothing is there. */
  remove(file: string): Promise<void>
  /** What is there, whole files and parts of uploads, by the name they have or will have. `age` in ms since the last write. */
  list(): Promise<{ name: string; part: boolean; age: number; size: number }[]>
}
