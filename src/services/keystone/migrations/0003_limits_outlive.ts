import { type Migration, sql } from '#kit/db/index.ts'

/** Registered limits outlive their service and region, as clients that clean up in any order expect. */
export const limitsOutlive: Migration = {
  name: '0003_limits_outlive',
  async up(tx) {
    await sql`alter table keystone.registered_limits drop constraint registered_limits_service_id_fkey`.execute(tx)
    await sql`alter table keystone.registered_limits drop constraint registered_limits_region_id_fkey`.execute(tx)
  },
  async down(tx) {
    await sql`alter table keystone.registered_limits
      add constraint registered_limits_service_id_fkey foreign key (service_id) references keystone.services not valid,
      add constraint registered_limits_region_id_fkey foreign key (region_id) references keystone.regions not valid`.execute(tx)
  },
}
