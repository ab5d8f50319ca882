// The qcow2 format, as far as an empty image needs it: a guest's disk is one over its base image, made for each server, and qemu-img takes
// longer to load than all else that a new guest needs of its disk. Source: docs/interop/qcow2.txt of QEMU.

const CLUSTER = 1 << 16
/** What one L1 entry maps: a cluster full of L2 entries. */
const MAPPED = CLUSTER * (CLUSTER / 8)
const HEADER_LENGTH = 104
const BACKING_FORMAT = 0xe2792aca
/** The name of a backing file has at most 1023 bytes. */
const NAME_MAX = 1023

/**
 * An empty qcow2 (version 3, clusters of 64 KiB) of `bytes`, rounded up to sectors; over `backing`, an absolute path, if given. Pure.
 * @throws TypeError for a path that cannot be in it.
 */
export function qcow2Empty(bytes: number, backing?: { path: string; format: 'qcow2' | 'raw' }): Buffer {
  const size = Math.ceil(bytes / 512) * 512
  const l1Entries = Math.ceil(size / MAPPED)
  const l1Clusters = Math.max(1, Math.ceil((l1Entries * 8) / CLUSTER))
  const clusters = 3 + l1Clusters
  const image = Buffer.alloc(clusters * CLUSTER)
  image.write('QFI\xfb', 0, 'latin1')
  image.writeUInt32BE(3, 4)
  image.writeUInt32BE(Math.log2(CLUSTER), 20)
  image.writeBigUInt64BE(BigInt(size), 24)
  image.writeUInt32BE(l1Entries, 36)
  image.writeBigUInt64BE(BigInt(3 * CLUSTER), 40) // L1 table
  image.writeBigUInt64BE(BigInt(CLUSTER), 48) // refcount table
  image.writeUInt32BE(1, 56) // its clusters
  image.writeUInt32BE(4, 96) // refcounts of 16 bits
  image.writeUInt32BE(HEADER_LENGTH, 100)
  if (backing) backingWrite(image, backing)
  image.writeBigUInt64BE(BigInt(2 * CLUSTER), CLUSTER) // refcount block
  for (let cluster = 0; cluster < clusters; cluster++) image.writeUInt16BE(1, 2 * CLUSTER + 2 * cluster)
  return image
}

/** Header extensions with the backing file's format, an end mark, and the file's name behind them. */
function backingWrite(image: Buffer, { path, format }: { path: string; format: string }): void {
  const name = Buffer.from(path)
  if (!path.startsWith('/') || path.includes('\0') || name.length > NAME_MAX)
    throw new TypeError(`not the path of a backing file: ${path}`)
  let at = image.writeUInt32BE(BACKING_FORMAT, HEADER_LENGTH)
  at = image.writeUInt32BE(format.length, at)
  image.write(format, at, 'latin1')
  at += Math.ceil(format.length / 8) * 8 + 8
  name.copy(image, at)
  image.writeBigUInt64BE(BigInt(at), 8)
  image.writeUInt32BE(name.length, 16)
}
