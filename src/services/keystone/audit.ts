/** What must agree in Keystone where no foreign key says so: users and groups may live in a directory outside, known here by their mapping. */
import { audit } from '#kit/audit.ts'
import { sql } from '#kit/db/index.ts'

const PEOPLE =
  'select id from keystone.users union all select id from keystone.groups union all select public_id from keystone.id_mappings'

const FINDINGS = `
with people as (${PEOPLE})
select 'assignment' as what, a.role_id || ' on ' || a.target || ' ' || a.target_id as id,
  'it gives a role to ' || a.actor || ' ' || a.actor_id || ', who does not exist' as why
from keystone.assignments a where not exists (select from people p where p.id = a.actor_id)
union all
select 'assignment', a.role_id || ' of ' || a.actor || ' ' || a.actor_id, 'it is on ' || a.target || ' ' || a.target_id || ', which does not exist'
from keystone.assignments a
where a.target <> 'system' and not exists (select from keystone.projects p where p.id = a.target_id and p.is_domain = (a.target = 'domain'))
union all
select 'group member', m.user_id, 'group ' || m.group_id || ' has this member, who does not exist'
from keystone.memberships m where not exists (select from people p where p.id = m.user_id)
union all
select 'application credential', c.id, 'its user ' || c.user_id || ' does not exist'
from keystone.app_creds c where not exists (select from people p where p.id = c.user_id)
union all
select 'application credential', c.id, 'it has role ' || r || ', which does not exist'
from keystone.app_creds c, unnest(c.role_ids) r where not exists (select from keystone.roles k where k.id = r)
union all
select 'trust', t.id, 'its ' || case when exists (select from people p where p.id = t.trustor_user_id) then 'trustee ' || t.trustee_user_id
  else 'trustor ' || t.trustor_user_id end || ' does not exist'
from keystone.trusts t where t.deleted_at is null and not (exists (select from people p where p.id = t.trustor_user_id)
  and exists (select from people p where p.id = t.trustee_user_id))
union all
select 'credential', c.id, 'its user ' || c.user_id || ' does not exist'
from keystone.credentials c where not exists (select from people p where p.id = c.user_id)
union all
select 'project', p.id, 'it belongs to ' || p.parent_id || ', which is in another domain'
from keystone.projects p join keystone.projects up on up.id = p.parent_id
where not p.is_domain and p.domain_id <> case when up.is_domain then up.id else up.domain_id end`

export const keystoneAudit = audit({
  findings: async ({ db }) => (await sql.raw<{ what: string; id: string; why: string }>(FINDINGS).execute(db)).rows,
})
