import { type Migration, sql } from '#kit/db/index.ts'

/**
 * Indexes of ports by device and by host become whole. A prepared statement that asks for `device_id = $1` may not use an index that leaves ''
 * out, as the plan must hold for every value: all ports were read instead.
 */
export const portIndexes: Migration = {
  name: '0003_port_indexes',
  async up(tx) {
    await sql`drop index neutron.ports_device, neutron.ports_host`.execute(tx)
    await sql`create index ports_device on neutron.ports (device_id)`.execute(tx)
    await sql`create index ports_host on neutron.ports (host, id)`.execute(tx)
  },
  async down(tx) {
    await sql`drop index neutron.ports_device, neutron.ports_host`.execute(tx)
    await sql`create index ports_device on neutron.ports (device_id) where device_id <> ''`.execute(tx)
    await sql`create index ports_host on neutron.ports (host, id) where host <> ''`.execute(tx)
  },
}
