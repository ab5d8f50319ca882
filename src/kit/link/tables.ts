/** Rows of the agent link. Hosts are machines that run an agent; what services do on them is the services' business. */
import { type ColumnType, type Generated, type Migration, sql } from '../db/index.ts'

interface HostsTable {
  name: string
  /** SHA-256 of the host's secret, hex; null for a host of this very process, which needs none. */
  secret_hash: string | null
  created_at: Generated<Date>
  /** Written when a link comes or goes; for a host that is connected `kit.host_states` knows better. */
  last_seen_at: Date | null
}

interface HostLinksTable {
  host: string
  controller: string
  since: Generated<Date>
}

interface ControllersTable {
  name: string
  /** Where agents of other machines reach it: `wss://10.0.0.1:5000/agent`; null if only its own machine's do. */
  address: string | null
  /** Its heartbeat, which vouches for all its links. */
  seen_at: Generated<Date>
}

interface JoinTokensTable {
  id: string
  /** SHA-256 of the token's secret part, hex. */
  secret_hash: string
  /** The only host that may use it, and may replace its secret by it; null for any new host. */
  host: string | null
  uses_left: number
  expires_at: Date
}

type Read<T> = ColumnType<T, never, never>

interface HostStatesView {
  name: Read<string>
  created_at: Read<Date>
  last_seen_at: Read<Date | null>
  up: Read<boolean>
  /** Names of the live controllers that it is connected to, sorted. */
  connected_to: Read<string[]>
}

declare module '../db/index.ts' {
  interface Tables {
    'kit.hosts': HostsTable
    'kit.host_links': HostLinksTable
    'kit.controllers': ControllersTable
    'kit.join_tokens': JoinTokensTable
    'kit.host_states': HostStatesView
  }
}

/** Seconds without a heartbeat after which a controller, and so its links, counts as gone. */
export const CONTROLLER_GONE = 30

export const linkMigrations: Migration[] = [
  {
    name: '0400_link',
    async up(tx) {
      await sql`
        create table kit.hosts (
          name text primary key,
          secret_hash text,
          created_at timestamptz(3) not null default now(),
          last_seen_at timestamptz(3)
        ) with (fillfactor = 70)`.execute(tx)
      await sql`
        create table kit.controllers (
          name text primary key,
          address text,
          seen_at timestamptz(3) not null default now()
        ) with (fillfactor = 50)`.execute(tx)
      await sql`
        create table kit.host_links (
          host text not null references kit.hosts on delete cascade,
          controller text not null references kit.controllers on delete cascade,
          since timestamptz(3) not null default now(),
          primary key (host, controller)
        )`.execute(tx)
      await sql`create index host_links_controller on kit.host_links (controller)`.execute(tx)
      await sql`
        create table kit.join_tokens (
          id text primary key,
          secret_hash text not null,
          host text,
          uses_left integer not null check (uses_left > 0),
          expires_at timestamptz(3) not null
        )`.execute(tx)
      await sql`
        create view kit.host_states as
        select h.name, h.created_at,
          greatest(h.last_seen_at, l.seen_at)::timestamptz(3) as last_seen_at,
          l.seen_at is not null as up,
          coalesce(l.controllers, '{}') as connected_to
        from kit.hosts h left join lateral (
          select max(c.seen_at) as seen_at, array_agg(c.name order by c.name) as controllers
          from kit.host_links k join kit.controllers c on c.name = k.controller
          where k.host = h.name and c.seen_at > now() - make_interval(secs => ${sql.lit(CONTROLLER_GONE)})
        ) l on true`.execute(tx)
    },
    async down(tx) {
      await sql`drop view kit.host_states`.execute(tx)
      await sql`drop table kit.join_tokens, kit.host_links, kit.controllers, kit.hosts`.execute(tx)
    },
  },
]
