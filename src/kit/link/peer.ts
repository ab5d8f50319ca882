/**
 * One end of one link: calls in both directions over a wire, numbered by whoever asks. Deadlines are kept by the asker, which sends `cancel`;
 * the serving end needs no timer. Everything a far end can make this end hold is bounded: calls in flight, running handlers, frames, windows
 * of streams, and the send buffer, over which the link is cut.
 */
import { Readable } from 'node:stream'
import { reason } from '#kit/fault.ts'
import type { Actions } from './actions.ts'
import { type Asked, faultDecode, faultEncode, linkBusy, linkDeadline, linkDown, linkLost, linkRefused } from './faults.ts'
import { unwatch, watch } from './liveness.ts'
import { Answering, type Mounted, textOf } from './serving.ts'
import { type Incoming, incoming, Sender } from './stream.ts'
import type { StreamedAnswer } from './types.ts'
import type { Bytes, CallOptions, LinkLog, Streamed, Verb } from './verb.ts'
import { type Frame, frameDecode, Malformed, type Side, type Wire } from './wire.ts'

/** Calls of one end without an answer; more wait. */
const MAX_IN_FLIGHT = 256
/** Calls that wait for one of those places, or for the send buffer; more are refused. */
const MAX_WAITING = 4096
/** Handlers at work for the far end, those included whose caller gave up. */
const MAX_RUNNING = 1024
/** Bytes in the send buffer over which calls and streams wait, and over which the far end is taken for stuck. */
const HIGH = 2 * 1024 * 1024
const MAX_BUFFERED = 32 * 1024 * 1024
const MAX_MS = 0x7fffffff

export interface PeerOptions {
  wire: Wire
  /** What handlers are told as `host`. */
  host: string
  /** How errors name the far end: a host's name, or `controller c1`. */
  far: string
  served: ReadonlyMap<string, Mounted>
  /** Where keyed actions are joined and kept: on agents. */
  actions: Actions | null
  log: LinkLog
  /** A notice of the link's own (`link.…`). */
  onOwn(name: string, payload: unknown): void
  onClose(reason: string): void
}

interface Pending {
  id: number
  verb: string
  since: number
  ms: number
  text: string
  options: CallOptions
  stream: boolean
  timer: NodeJS.Timeout
  onAbort: (() => void) | null
  resolve(answer: StreamedAnswer<unknown>): void
  reject(error: unknown): void
}

export class Peer {
  heard = true
  silent = 0
  readonly #o: PeerOptions
  readonly #wire: Wire
  #closed: string | null = null
  #lastId = 0
  readonly #pending = new Map<number, Pending>()
  readonly #waiting = new Set<Pending>()
  readonly #running = new Map<number, Answering>()
  /** Streams by `2 × call id + side`, the side seen by the sender. */
  readonly #senders = new Map<number, Sender>()
  readonly #readers = new Map<number, Incoming>()

  constructor(options: PeerOptions) {
    this.#o = options
    this.#wire = options.wire
    if (this.#wire.remote) watch(this)
    this.#wire.open({
      text: text => this.#guard(() => this.#onFrame(frameDecode(text))),
      // A chunk for a reader that is gone crossed its `stop`.
      chunk: (from, id, bytes) => this.#guard(() => this.#readers.get(id * 2 + from)?.chunk(bytes)),
      malformed: error =>
        this.#guard(() => {
          throw error
        }),
      drain: () => this.#onDrain(),
      close: why => this.#gone(why),
    })
  }

  get closed(): boolean {
    return this.#closed !== null
  }

  /** Asks the far end. Rejects as `Hosts.call` says; with `stream` the answer's bytes are kept for the caller, else they are an error. */
  call<A, R>(verb: Verb<A, R>, args: A, options: CallOptions, stream: boolean): Promise<StreamedAnswer<R>> {
    return new Promise<StreamedAnswer<unknown>>((resolve, reject) => {
      options.signal?.throwIfAborted()
      if (this.#closed !== null) throw linkDown(this.#o.far, verb.name, null)
      if (options.key !== undefined && (options.key === '' || options.key.length > 512))
        throw new Error('a key has 1 to 512 characters')
      const text = textOf(verb.name, 'arguments', args)
      const ms = Math.min(Math.ceil((options.deadline ?? verb.deadline) * 1000), MAX_MS)
      const call: Pending = {
        id: 0,
        verb: verb.name,
        since: performance.now(),
        ms,
        text,
        options,
        stream,
        timer: undefined as unknown as NodeJS.Timeout,
        onAbort: null,
        resolve,
        reject,
      }
      if (!this.#room() && this.#waiting.size >= MAX_WAITING) throw linkBusy(this.#asked(call))
      call.timer = setTimeout(late, ms, this, call)
      if (options.signal) {
        call.onAbort = () => this.#giveUp(call, options.signal!.reason)
        options.signal.addEventListener('abort', call.onAbort, { once: true })
      }
      if (this.#room()) this.#ask(call)
      else this.#waiting.add(call)
    }) as Promise<StreamedAnswer<R>>
  }

  /** Sends a notice, unless the link is closed or the far end so slow that it would only be late: false then. */
  notify(name: string, payload: unknown): boolean {
    if (this.#closed !== null || this.#wire.buffered > HIGH) return false
    const text = textOf(name, 'payload', payload)
    this.#send(`{"t":"note","name":"${name}"${text === '' ? '' : `,"payload":${text}`}}`)
    return true
  }

  ping(): void {
    this.#send('{"t":"ping"}')
  }

  /** Says why, then cuts. Calls that wait for an answer fail as lost. */
  close(why: string): void {
    if (this.#closed !== null) return
    this.#wire.send(`{"t":"bye","reason":${JSON.stringify(why)}}`)
    this.#wire.close(why)
    this.#gone(why)
  }

  #asked(call: Pending): Asked {
    return { far: this.#o.far, verb: call.verb, age: performance.now() - call.since }
  }

  #room(): boolean {
    return this.#pending.size < MAX_IN_FLIGHT && this.#wire.buffered <= HIGH
  }

  #ask(call: Pending): void {
    do this.#lastId = (this.#lastId + 1) >>> 0
    while (this.#pending.has(this.#lastId) || this.#senders.has(this.#lastId * 2) || this.#readers.has(this.#lastId * 2 + 1))
    call.id = this.#lastId
    this.#pending.set(call.id, call)
    const { key, body } = call.options
    const head = `{"t":"call","id":${call.id},"verb":"${call.verb}","ms":${call.ms}${key === undefined ? '' : `,"key":${JSON.stringify(key)}`}`
    this.#send(`${head}${body ? ',"body":true' : ''}${call.text === '' ? '' : `,"args":${call.text}`}}`)
    call.text = ''
    if (body) void this.#pump(0, call.id, body, () => this.#pending.has(call.id) && call.timer.refresh())
  }

  /** Ends a call on this side: with an answer or a failure, whatever came first. `talk`: its own bytes go on beside the answer's. */
  #settle(call: Pending, talk = false): void {
    clearTimeout(call.timer)
    if (call.onAbort) call.options.signal!.removeEventListener('abort', call.onAbort)
    if (!this.#waiting.delete(call)) {
      this.#pending.delete(call.id)
      if (!talk) this.#senders.get(call.id * 2)?.stop()
    }
    if (this.#waiting.size > 0) this.#next()
  }

  #next(): void {
    if (this.#closed !== null) return
    for (const call of this.#waiting) {
      if (!this.#room()) return
      this.#waiting.delete(call)
      this.#ask(call)
    }
  }

  #giveUp(call: Pending, error: unknown): void {
    const asked = !this.#waiting.has(call)
    this.#settle(call)
    if (asked) this.#send(`{"t":"cancel","id":${call.id}}`)
    call.reject(error)
  }

  /** The deadline's timer. */
  late(call: Pending): void {
    this.#giveUp(call, linkDeadline(this.#asked(call)))
  }

  #send(text: string): void {
    if (this.#closed !== null) return
    this.#wire.send(text)
    this.#checkBuffer()
  }

  #checkBuffer(): void {
    if (this.#wire.buffered > MAX_BUFFERED) this.close(`the far end takes nothing: ${this.#wire.buffered} bytes wait for it`)
  }

  #onDrain(): void {
    for (const sender of this.#senders.values()) sender.wake()
    this.#next()
  }

  /** Whatever a far end sends costs it its link, never this process. */
  #guard(take: () => void): void {
    this.heard = true
    if (this.#closed !== null) return
    try {
      take()
    } catch (error) {
      const fields = { far: this.#o.far, wire: this.#wire.name, error: reason(error) }
      if (error instanceof Malformed) this.#o.log.warn(fields, 'malformed message: the link is cut')
      else
        this.#o.log.error(
          { ...fields, stack: error instanceof Error ? error.stack : undefined },
          'the link failed at a message: it is cut',
        )
      this.close(`malformed message: ${reason(error)}`)
    }
  }

  #onFrame(f: Frame): void {
    switch (f.t) {
      case 'call':
        this.#onCall(f)
        break
      case 'ok':
        this.#onOk(f)
        break
      case 'fail':
        this.#onFail(f)
        break
      case 'cancel':
        this.#running.get(f.id)?.cancel()
        break
      case 'note':
        this.#onNote(f.name, f.payload)
        break
      case 'ping':
        this.#send('{"t":"pong"}')
        break
      case 'pong':
        break
      case 'bye':
        this.#wire.close(f.reason)
        this.#gone(f.reason)
        break
      default:
        this.#onStream(f)
    }
  }

  #onStream(f: Extract<Frame, { from: Side }>): void {
    const key = f.id * 2 + f.from
    if (f.t === 'more') this.#senders.get(key)?.more(f.bytes)
    else if (f.t === 'end') {
      this.#readers.get(key)?.end(f.kind === undefined ? undefined : faultDecode({ kind: f.kind, message: f.message ?? '' }))
    } else {
      this.#senders.get(key)?.stop()
      if (f.from === 1) this.#running.get(f.id)?.cancel()
    }
  }

  // The asking side: answers.

  #onOk(f: { id: number; body?: boolean; result?: unknown }): void {
    const call = this.#pending.get(f.id)
    if (!call) {
      // The answer crossed our cancel; its bytes are not wanted either.
      if (f.body) this.#send(`{"t":"stop","id":${f.id},"from":1}`)
      return
    }
    this.#settle(call, f.body && call.stream)
    if (f.body && !call.stream) {
      this.#send(`{"t":"stop","id":${f.id},"from":1}`)
      call.reject(new Error(`${call.verb} answers with bytes: ask by callStream or askStream`))
      return
    }
    call.resolve({ result: f.result, body: f.body ? this.#answerBody(call) : empty() })
  }

  #answerBody(call: Pending): Readable {
    const { body } = this.#reader(1, call.id, () => this.#asked(call), call.ms)
    // A conversation, as of a console: what the asker says goes on until the answer's bytes end.
    const sender = this.#senders.get(call.id * 2)
    if (sender) body.once('close', () => sender.stop())
    const { signal } = call.options
    if (signal) {
      const abort = () => body.destroy(signal.reason as Error)
      if (signal.aborted) abort()
      else {
        signal.addEventListener('abort', abort, { once: true })
        body.once('close', () => signal.removeEventListener('abort', abort))
      }
    }
    return body
  }

  #onFail(f: { id: number; kind: string; message: string; details?: Record<string, unknown> }): void {
    const call = this.#pending.get(f.id)
    if (!call) return
    this.#settle(call)
    if (f.kind === 'link.refused') call.reject(linkRefused(this.#asked(call)))
    else if (f.kind === 'link.busy') call.reject(linkBusy(this.#asked(call)))
    else call.reject(faultDecode(f))
  }

  // The serving side.

  #onCall(f: Extract<Frame, { t: 'call' }>): void {
    if (this.#running.has(f.id)) throw new Malformed(`call ${f.id} is running already`)
    const mounted = this.#o.served.get(f.verb)
    if (mounted?.served.kind !== 'verb' || this.#running.size >= MAX_RUNNING) {
      const kind = mounted?.served.kind === 'verb' ? 'link.busy' : 'link.refused'
      this.#send(`{"t":"fail","id":${f.id},"kind":"${kind}","message":""}`)
      return
    }
    const body = f.body ? this.#reader(0, f.id, this.#bodyOf(f.verb)).body : null
    const on = new Answering({ mounted, args: f.args, key: f.key ?? null, ms: f.ms, host: this.#o.host, log: this.#o.log, body })
    this.#running.set(f.id, on)
    void this.#serve(f.id, on)
  }

  async #serve(id: number, on: Answering): Promise<void> {
    try {
      const outcome = await on.run(this.#o.actions)
      if ('once' in outcome) await this.#answerBytes(id, on, outcome.once)
      else if (!on.unwanted) this.#send(`{"t":"ok","id":${id}${outcome.text === '' ? '' : `,"result":${outcome.text}`}}`)
    } catch (error) {
      if (!on.unwanted) this.#send(`{"t":"fail","id":${id},${JSON.stringify(faultEncode(error)).slice(1)}`)
    } finally {
      this.#running.delete(id)
      on.finish()
    }
  }

  async #answerBytes(id: number, on: Answering, { result, bytes }: Streamed<unknown>): Promise<void> {
    const text = textOf(on.verb, 'result', result)
    if (!on.unwanted) this.#send(`{"t":"ok","id":${id},"body":true${text === '' ? '' : `,"result":${text}`}}`)
    await this.#pump(1, id, bytes, null, on.unwanted)
  }

  #onNote(name: string, payload: unknown): void {
    const { far, host, log, served } = this.#o
    const mounted = served.get(name)
    if (name.startsWith('link.')) this.#o.onOwn(name, payload)
    else if (mounted?.served.kind !== 'notice') log.debug({ far, notice: name }, 'nobody hears this notice')
    else {
      const on = new Answering({ mounted, args: payload, key: null, ms: MAX_MS, host, log, body: null })
      on.run(null).catch(error => log.error({ far, notice: name, error: reason(error) }, 'a notice failed'))
    }
  }

  // Streams.

  /** Sends bytes until they end or the reader stops; `unwanted` ones are only closed. Never rejects. */
  async #pump(from: Side, id: number, bytes: Bytes, progress: (() => void) | null, unwanted = false): Promise<void> {
    const key = id * 2 + from
    const sender = new Sender(bytes, {
      chunk: chunk => {
        progress?.()
        this.#wire.chunk(from, id, chunk)
        this.#checkBuffer()
      },
      end: error => {
        const fault = error === undefined ? undefined : faultEncode(error)
        this.#send(JSON.stringify({ t: 'end', id, from, kind: fault?.kind, message: fault?.message }))
      },
      full: () => this.#wire.buffered > HIGH,
    })
    if (unwanted || this.#closed !== null) sender.stop()
    this.#senders.set(key, sender)
    await sender.pump()
    this.#senders.delete(key)
  }

  #bodyOf(verb: string): () => Asked {
    const since = performance.now()
    return () => ({ far: this.#o.far, verb: `body of ${verb}`, age: performance.now() - since })
  }

  /** Opens the receiving end of a stream; with `idleMs` it fails when no byte comes for that long while it is read. */
  #reader(from: Side, id: number, asked: () => Asked, idleMs?: number): Incoming {
    const key = id * 2 + from
    if (this.#readers.has(key)) throw new Malformed(`stream ${id} is open already`)
    const reader = incoming({
      grant: bytes => this.#send(`{"t":"more","id":${id},"from":${from},"bytes":${bytes}}`),
      stop: () => this.#send(`{"t":"stop","id":${id},"from":${from}}`),
      idle: idleMs === undefined ? undefined : { ms: idleMs, fault: () => linkDeadline(asked()) },
      lost: why => linkLost(asked(), why),
    })
    this.#readers.set(key, reader)
    reader.body.once('close', () => this.#readers.delete(key))
    return reader
  }

  #gone(why: string): void {
    if (this.#closed !== null) return
    this.#closed = why
    unwatch(this)
    for (const call of [...this.#pending.values(), ...this.#waiting]) {
      this.#settle(call)
      call.reject(linkLost(this.#asked(call), why))
    }
    for (const on of this.#running.values()) on.lost(why)
    for (const sender of this.#senders.values()) sender.stop()
    for (const reader of this.#readers.values()) reader.lost(why)
    this.#o.onClose(why)
  }
}

function late(peer: Peer, call: Pending): void {
  peer.late(call)
}

function empty(): Readable {
  return Readable.from([])
}
