/** The file of a builder: gzip of JSON, and beside it the `.ring.gz` that is given out. */
import { readFile, rename, writeFile } from 'node:fs/promises'
import { gunzipSync, gzipSync } from 'node:zlib'
import type { Builder } from './builder.ts'

interface Kept extends Omit<Builder, 'table'> {
  format: 'nubo-ring-builder-1'
  table: number[][]
}

/** Reads a builder. Throws Error for a file that is none, such as one of Swift's own. */
export async function loadBuilder(path: string): Promise<Builder> {
  const bytes = await readFile(path)
  let kept: Kept
  try {
    kept = JSON.parse(gunzipSync(bytes).toString()) as Kept
  } catch (error) {
    throw new Error(`${path} is no builder of Nubo's; for a ring made elsewhere there is write_builder`, { cause: error })
  }
  const { format, table, ...rest } = kept
  if (format !== 'nubo-ring-builder-1') throw new Error(`${path} is of the unknown format ${format}`)
  return { ...rest, table: table.map(row => Uint32Array.from(row)) }
}

/** Writes a builder, whole or not at all. */
export async function saveBuilder(path: string, builder: Builder): Promise<void> {
  const kept: Kept = { format: 'nubo-ring-builder-1', ...builder, table: builder.table.map(row => [...row]) }
  await writeFile(`${path}.new`, gzipSync(JSON.stringify(kept)))
  await rename(`${path}.new`, path)
}
