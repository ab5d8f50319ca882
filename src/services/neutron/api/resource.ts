/**
 * The edge of every noun of networking, out of its description: GET of a list and of one, POST of one and of many, PUT, DELETE, tags;
 * filters, sorting, pages, `fields`; policy for each attribute; the revision that a client may insist on. A noun's file says its
 * attributes and, in hooks, what makes it special.
 *
 * The order of a write is that of the rows: everything happens in one transaction, so policy sees what it decides about as it is, and a
 * list of new things is made whole or not at all.
 */
import type { AliasableExpression, AliasedExpression } from 'kysely'
import type { Context } from '#kit/context.ts'
import type { Query, RawBuilder, Tx } from '#kit/db/index.ts'
import type { Fault } from '#kit/fault.ts'
import { type Noun, noun, type Row } from '#kit/noun/index.ts'
import type { Env } from '#kit/service.ts'
import type { Resource as Quota } from '../quotas/quota.ts'
import type { Attribute } from './attributes.ts'

export type { Row }

/** What a hook is told about a write. */
export interface Writing {
  env: Env
  tx: Tx
  ctx: Context
  /** Path parameters of the parents: `policy_id`. */
  params: Readonly<Record<string, string>>
}

export interface Making extends Writing {
  /** Every attribute that POST takes: as given (clean), else its initial value. `project_id` is decided. */
  given: Row
  /** The names that the request gave itself. */
  explicit: ReadonlySet<string>
}

export interface Changing extends Writing {
  /** As it was: columns, with those of `columns`. Its row is locked. */
  row: Row
  changes: Row
}

export interface Removing extends Writing {
  row: Row
}

export interface ResourceSpec {
  /** On the wire: `network`, `networks`. */
  name: string
  plural: string
  /** Policy's word for it, where it is not the wire's. */
  rule?: string
  /** `/networks`; with a parent's parameters: `/qos/policies/:policy_id/bandwidth_limit_rules`. */
  path: string
  table: string
  attributes: Record<string, Attribute>
  gone: (id: string) => Fault
  /** Can be made by the dozen: `{ networks: […] }`; true unless given. */
  bulk?: boolean
  /** Which of the verbs there are; all unless given. */
  verbs?: readonly ('list' | 'show' | 'create' | 'update' | 'delete')[]
  /** Claimed in the project's quota by POST. */
  quota?: Quota
  /** Has tags, revision and times; true unless given. */
  standard?: boolean
  /** A parent named in the path: the column that holds its id, and its 404 and policy target. */
  parent?: { param: string; column: string; fetch(db: Query, ctx: Context, id: string): Promise<Row> }
  /** More columns of a row, as SQL: lists of children, what others say of it. */
  columns?: (ctx: Context) => readonly Column[]
  /** Which rows those may see who do not see everything; those of their project unless given. null: all. */
  visible?: ((ctx: Context) => RawBuilder<boolean>) | null
  /** Who may not change what is shared with it is told that it is not there, as if it could not see it. */
  sharedUntold?: true
  /** Which rows of the table are of this noun at all, where it shares its table. */
  where?: () => RawBuilder<boolean>
  /** Filters that are no column. */
  filters?: Record<string, (values: string[], ctx: Context) => RawBuilder<boolean>>
  /** What policy sees of a row beside its attributes. */
  target?: (row: Row) => Row
  /** What policy sees of what is to be made, beside its attributes: its parents' owners. */
  makingTarget?: (making: Making) => Promise<Row>
  /** Last touch to what is shown. */
  view?: (view: Row, row: Row, ctx: Context) => Row
  /** Once for a POST, before each is made: what many share. */
  begin?: (makings: readonly Making[]) => Promise<void>
  /** Writes the row; by default inserts the attributes' columns. Returns its id. */
  create?: (making: Making) => Promise<string>
  /** Writes the changes; by default the attributes' columns. */
  update?: (changing: Changing) => Promise<void>
  /** Removes it; by default deletes the row. */
  remove?: (removing: Removing) => Promise<void>
  /** After a write of any kind, within the transaction. */
  after?: (writing: Writing, id: string, verb: 'create' | 'update' | 'delete', row: Row) => Promise<void> | void
}

export type Column = AliasedExpression<unknown, string>
export type Expression = AliasableExpression<unknown>

export interface Resource extends Omit<ResourceSpec, 'rule' | 'bulk' | 'standard'> {
  noun: Noun
  rule: string
  bulk: boolean
  standard: boolean
  /** Without the parents' parts: `networks`. */
  links: string
}

/** Declares a noun of the API. */
export function resource(spec: ResourceSpec): Resource {
  return {
    ...spec,
    rule: spec.rule ?? spec.name,
    bulk: spec.bulk ?? true,
    standard: spec.standard ?? true,
    links: `${spec.plural}_links`,
    noun: noun({ name: spec.name, plural: spec.plural, table: spec.table, fields: spec.attributes }),
  }
}

/** Whether the caller's lists are not narrowed to its project. */
export const seesAll = (ctx: Context): boolean =>
  ctx.isAdmin || ctx.can('service_api') || ctx.can('context_is_advsvc') || ctx.can('context_with_global_access')
