import { type Migration, sql } from '#kit/db/index.ts'

/** Which network and router were made for a project that asked for "a network". */
export const topologies: Migration = {
  name: '0004_topologies',
  async up(tx) {
    await sql`create table neutron.auto_topologies (
      project_id text primary key, network_id text not null references neutron.networks on delete cascade,
      router_id text references neutron.routers on delete set null)`.execute(tx)
    await sql`create index auto_topologies_network on neutron.auto_topologies (network_id)`.execute(tx)
    await sql`create index auto_topologies_router on neutron.auto_topologies (router_id)`.execute(tx)
  },
  async down(tx) {
    await sql`drop table neutron.auto_topologies`.execute(tx)
  },
}
