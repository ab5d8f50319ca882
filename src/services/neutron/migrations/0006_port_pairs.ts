import { type Migration, sql } from '#kit/db/index.ts'

/** The few ports with allowed address pairs are found without reading all ports of a group: every host asks whenever a member comes. */
export const portPairs: Migration = {
  name: '0006_port_pairs',
  async up(tx) {
    await sql`create index ports_pairs on neutron.ports (id) where allowed_address_pairs <> '[]'`.execute(tx)
  },
  async down(tx) {
    await sql`drop index neutron.ports_pairs`.execute(tx)
  },
}
