/** The memory form: two ends in one process. Messages still cross as text, so that what works here works over a socket. */
import type { Way } from './agent.ts'
import type { Hosts } from './types.ts'
import type { Side, Wire, WireEvents } from './wire.ts'

/** Two wires, each the far end of the other. Messages arrive in later microtasks, in order. */
export function memoryPair(): [Wire, Wire] {
  const a = new MemoryWire()
  const b = new MemoryWire()
  a.far = b
  b.far = a
  return [a, b]
}

type Message = string | { from: Side; id: number; bytes: Uint8Array } | { closed: string }

class MemoryWire implements Wire {
  readonly name = 'memory'
  readonly remote = false
  far: MemoryWire | null = null
  #on: WireEvents | null = null
  #inbox: Message[] = []
  #bytes = 0
  #scheduled = false
  #closed = false

  get buffered(): number {
    return this.far ? this.far.#bytes : 0
  }

  open(on: WireEvents): void {
    this.#on = on
    this.#schedule()
  }

  send(text: string): void {
    if (!this.#closed && this.far) this.far.#take(text, text.length)
  }

  chunk(from: Side, id: number, bytes: Uint8Array): void {
    if (!this.#closed && this.far) this.far.#take({ from, id, bytes }, bytes.length)
  }

  close(reason: string): void {
    if (this.#closed) return
    this.#closed = true
    if (this.far) this.far.#take({ closed: 'closed by the far end' }, 0)
    this.#inbox = [{ closed: reason }]
    this.#schedule()
  }

  #take(message: Message, bytes: number): void {
    if (this.#closed) return
    this.#inbox.push(message)
    this.#bytes += bytes
    this.#schedule()
  }

  #schedule(): void {
    if (this.#scheduled || !this.#on) return
    this.#scheduled = true
    queueMicrotask(() => this.#deliver())
  }

  #deliver(): void {
    this.#scheduled = false
    const inbox = this.#inbox
    this.#inbox = []
    this.#bytes = 0
    for (const message of inbox) {
      if (typeof message === 'object' && 'closed' in message) {
        this.#end(message.closed)
        return
      }
      if (this.#closed) return
      if (typeof message === 'string') this.#on?.text(message)
      else this.#on?.chunk(message.from, message.id, message.bytes)
    }
    if (this.far) this.far.#on?.drain()
  }

  #end(why: string): void {
    this.#closed = true
    this.far = null
    this.#on?.close(why)
    this.#on = null
  }
}

/**
 * The way to a controller in this process: `dial({ ways: [memoryWay(hosts, 'sim-1')], … })`. Identity needs no proof here, since whoever
 * can call this holds the controller.
 */
export function memoryWay(hosts: Pick<Hosts, 'accept' | 'controller'>, host: string): Way {
  return {
    address: `memory:${hosts.controller}`,
    async connect() {
      const [near, far] = memoryPair()
      hosts.accept({ host, wire: far })
      return near
    },
  }
}
