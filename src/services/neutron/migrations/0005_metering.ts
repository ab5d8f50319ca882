import { type Migration, sql } from '#kit/db/index.ts'

/** What traffic of a project's routers is counted under which label. */
export const metering: Migration = {
  name: '0005_metering',
  async up(tx) {
    await sql`create table neutron.metering_labels (
      id text primary key, project_id text not null, name text not null default '', description text not null default '',
      shared boolean not null default false)`.execute(tx)
    await sql`create index metering_labels_project on neutron.metering_labels (project_id, id)`.execute(tx)
    await sql`create table neutron.metering_label_rules (
      id text primary key, metering_label_id text not null references neutron.metering_labels on delete cascade,
      direction text not null, excluded boolean not null default false, remote_ip_prefix cidr, source_ip_prefix cidr,
      destination_ip_prefix cidr)`.execute(tx)
    await sql`create index metering_label_rules_label on neutron.metering_label_rules (metering_label_id, id)`.execute(tx)
  },
  async down(tx) {
    await sql`drop table neutron.metering_label_rules`.execute(tx)
    await sql`drop table neutron.metering_labels`.execute(tx)
  },
}
