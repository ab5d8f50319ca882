/** The first flavors of a cloud, as DevStack makes them, and a small one for the guest image. */
import type { Tx } from '#kit/db/index.ts'

/* biome-ignore format: a table */
const FLAVORS = [
  { id: '1', name: 'm1.tiny',   vcpus: 1, memory_mb: 512,   root_gb: 1 },
  { id: '2', name: 'm1.small',  vcpus: 1, memory_mb: 2048,  root_gb: 20 },
  { id: '3', name: 'm1.medium', vcpus: 2, memory_mb: 4096,  root_gb: 40 },
  { id: '4', name: 'm1.large',  vcpus: 4, memory_mb: 8192,  root_gb: 80 },
  { id: '5', name: 'm1.xlarge', vcpus: 8, memory_mb: 16384, root_gb: 160 },
] as const

/** Makes them where there is no flavor at all: what an operator has deleted stays deleted. */
export async function seedFlavors(tx: Tx): Promise<void> {
  const any = await tx.selectFrom('nova.flavors').select('id').limit(1).executeTakeFirst()
  if (any) return
  await tx
    .insertInto('nova.flavors')
    .values(
      FLAVORS.map(flavor => ({
        ...flavor,
        ephemeral_gb: 0,
        swap_mb: 0,
        rxtx_factor: 1,
        is_public: true,
        description: null,
        updated_at: null,
      })),
    )
    .execute()
}
