/** The memory form: two ends in one process. Messages still cross as text, so that what works here works over a socket. */
import type { Way } from './agent.ts'
import type { Hosts } from './types.ts'
import type { Wire, WireEvents } from './wire.ts'

/** Two wires, each the far end of the other. Messages arrive in later microtasks, in order. */
export function memoryPair(): [Wire, Wire] {
  const a = new MemoryWire()
  const b = new MemoryWire()
  a.far = b
  b.far = a
  return [a, b]
}

type Message = string | Uint8Array

class MemoryWire implements Wire {
  readonly name = 'memory'
  readonly remote = false
  far: MemoryWire | null = null
  #on: WireEvents | null = null
  #inbox: (Message | { closed: string })[] = []
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

  send(message: Message): void {
    if (!this.#closed && this.far) this.far.#take(message)
  }

  close(reason: string): void {
    if (this.#closed) return
    this.#closed = true
    if (this.far) this.far.#take({ closed: 'closed by the far end' })
    this.#inbox = [{ closed: reason }]
    this.#schedule()
  }

  #take(message: Message | { closed: string }): void {
    if (this.#closed) return
    this.#inbox.push(message)
    if (typeof message === 'string' || message instanceof Uint8Array) this.#bytes += message.length
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
      if (typeof message === 'string' || message instanceof Uint8Array) {
        if (this.#closed) return
        this.#on?.message(message)
      } else {
        this.#closed = true
        this.#on?.close(message.closed)
        this.#on = null
        this.far = null
        return
      }
    }
    if (this.far) this.far.#on?.drain()
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
