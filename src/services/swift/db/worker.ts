/**
 * The thread that owns the databases. All that waits for one database when its turn comes is done in one transaction: a commit costs a
 * sync of the disk, and under load one sync then serves many requests. The event loop of the server never waits for it.
 */
import { existsSync } from 'node:fs'
import { parentPort } from 'node:worker_threads'
import type { Handle } from './handle.ts'
import { openHandle } from './handle.ts'
import { type Access, type OperationName, operations } from './operations.ts'

export interface Ask {
  id: number
  op: OperationName
  path: string
  args: unknown
}
export interface Told {
  id: number
  value?: unknown
  error?: { message: string; code: string; errcode: number }
}

const MOST_OPEN = 256
const open = new Map<string, Handle>()
let waiting: Ask[] = []

parentPort!.on('message', (asks: Ask[]) => {
  if (waiting.length === 0) setImmediate(work)
  waiting.push(...asks)
})

function work(): void {
  const groups = new Map<string, Ask[]>()
  for (const ask of waiting) {
    const group = groups.get(ask.path)
    if (group) group.push(ask)
    else groups.set(ask.path, [ask])
  }
  waiting = []
  for (const [path, asks] of groups) {
    parentPort!.postMessage(together(path, asks))
    // the auditing thread is not told when a database goes and another takes its place
    if (asks.every(ask => ask.op.endsWith('.audit'))) shut(path)
  }
}

function together(path: string, asks: Ask[]): Told[] {
  try {
    return transaction(path, asks)
  } catch (error) {
    if (asks.length === 1) return [failure(asks[0], error)]
    return asks.flatMap(ask => {
      try {
        return transaction(path, [ask])
      } catch (own) {
        return [failure(ask, own)]
      }
    })
  }
}

function transaction(path: string, asks: Ask[]): Told[] {
  const access: Access = {
    path,
    h: handle(path),
    use(make) {
      if (access.h) return access.h // a second connection would wait for this one's transaction
      const made = make()
      remember(path, made)
      made.db.exec('BEGIN')
      access.h = made
      return made
    },
  }
  if (asks.some(ask => ask.op === 'close')) {
    shut(path)
    return asks.map(ask => ({ id: ask.id, value: ask.op === 'close' ? true : null }))
  }
  access.h?.db.exec('BEGIN')
  try {
    const told = asks.map(ask => ({
      id: ask.id,
      value: (operations[ask.op] as (a: Access, args: unknown) => unknown)(access, ask.args),
    }))
    access.h?.db.exec('COMMIT')
    return told
  } catch (error) {
    if (access.h?.db.isTransaction) access.h.db.exec('ROLLBACK')
    throw error
  }
}

function failure(ask: Ask, error: unknown): Told {
  const { message, code = '', errcode = 0 } = error as { message: string; code?: string; errcode?: number }
  return { id: ask.id, error: { message: `${ask.op}: ${message}`, code, errcode } }
}

function handle(path: string): Handle | null {
  const known = open.get(path)
  if (known) {
    if (existsSync(path)) {
      open.delete(path)
      open.set(path, known)
      return known
    }
    shut(path) // the device was taken away
  }
  const h = openHandle(path)
  if (h) remember(path, h)
  return h
}

function remember(path: string, h: Handle): void {
  open.set(path, h)
  if (open.size > MOST_OPEN) shut(open.keys().next().value!)
}

function shut(path: string): void {
  const h = open.get(path)
  open.delete(path)
  h?.db.close()
}
