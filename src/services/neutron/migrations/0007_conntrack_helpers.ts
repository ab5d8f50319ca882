import { type Migration, sql } from '#kit/db/index.ts'

/** Connections of which protocols a router reads along, for those that they arrange. */
export const conntrackHelpers: Migration = {
  name: '0007_conntrack_helpers',
  async up(tx) {
    await sql`create table neutron.conntrack_helpers (
      id text primary key, router_id text not null references neutron.routers on delete cascade,
      protocol text not null, port integer not null, helper text not null,
      constraint conntrack_helpers_same unique (router_id, protocol, port, helper))`.execute(tx)
  },
  async down(tx) {
    await sql`drop table neutron.conntrack_helpers`.execute(tx)
  },
}
