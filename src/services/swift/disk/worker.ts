/** The thread of a device: takes what has come in since its last turn as one batch, so that under load one sync serves many. */
import { parentPort, workerData } from 'node:worker_threads'
import { type LookOptions, readSmall, recover, type Seen, type SmallFile, type Stored, storeAll } from './files.ts'
import { openJournal } from './journal.ts'

export type Ask = { id: number } & (
  | { do: 'read'; dir: string; options: LookOptions; most: number }
  | { do: 'store'; file: SmallFile }
  | { do: 'recover' }
  | { do: 'settle' }
)
export interface Told {
  id: number
  value?: Seen | Stored | number
  error?: { message: string; code: string }
}
/** What a thread says that nobody asked for. */
export interface Trouble {
  trouble: string
}

const { device } = workerData as { device: string }
const port = parentPort!
const journal = openJournal(device, error => port.postMessage({ trouble: String(error) } satisfies Trouble))
let waiting: Ask[] = []
let working = false

port.on('message', (asks: Ask[]) => {
  waiting.push(...asks)
  if (!working) {
    working = true
    setImmediate(work)
  }
})

async function work(): Promise<void> {
  while (waiting.length) {
    const asks = waiting
    waiting = []
    const room = asks.some(ask => ask.do === 'store') ? journal.room() : null
    if (room) await room
    const told: Told[] = []
    for (const ask of asks) {
      if (ask.do === 'settle') told.push(await settled(ask.id))
      else if (ask.do !== 'store') told.push(one(ask))
    }
    told.push(...stored(asks.filter(ask => ask.do === 'store')))
    const bytes = told.flatMap(({ value }) =>
      typeof value === 'object' ? [value.data, value.meta].filter(part => part !== null).map(part => part.buffer) : [],
    )
    port.postMessage(told, bytes as ArrayBuffer[])
    // what came meanwhile is in the port's queue, which only the event loop empties
    await new Promise(setImmediate)
  }
  working = false
}

const failure = (id: number, error: unknown): Told => {
  const { message, code = '' } = error as { message: string; code?: string }
  return { id, error: { message, code } }
}

function one(ask: Ask & { do: 'read' | 'recover' }): Told {
  try {
    return { id: ask.id, value: ask.do === 'read' ? readSmall(ask.dir, ask.options, ask.most) : recover(device, journal) }
  } catch (error) {
    return failure(ask.id, error)
  }
}

async function settled(id: number): Promise<Told> {
  try {
    await journal.settle()
    return { id }
  } catch (error) {
    return failure(id, error)
  }
}

function stored(asks: (Ask & { do: 'store' })[]): Told[] {
  if (asks.length === 0) return []
  const outcomes = storeAll(
    device,
    journal,
    asks.map(ask => ask.file),
  )
  return outcomes.map((outcome, i) =>
    outcome instanceof Error ? failure(asks[i].id, outcome) : { id: asks[i].id, value: outcome },
  )
}
