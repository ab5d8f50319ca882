import { type Migration, sql } from '#kit/db/index.ts'

/** A trunk goes with its parent port, and a subport leaves it: whoever removes a server's port need not know of trunks. */
export const trunks: Migration = {
  name: '0002_trunks',
  async up(tx) {
    await change(tx, 'on delete cascade')
  },
  async down(tx) {
    await change(tx, '')
  },
}

async function change(tx: Parameters<Migration['up']>[0], then: string): Promise<void> {
  for (const table of ['trunks', 'subports']) {
    await sql.raw(`alter table neutron.${table} drop constraint ${table}_port_id_fkey`).execute(tx)
    await sql
      .raw(
        `alter table neutron.${table} add constraint ${table}_port_id_fkey foreign key (port_id) references neutron.ports ${then}`,
      )
      .execute(tx)
  }
}
