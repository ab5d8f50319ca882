/**
 * What a service says of its own routes so that the tests of the whole cloud can try every one of them: how to make one of each of its
 * nouns, and how its refusals look. Kept beside the service (`tried.ts`); the trials are in `roles/trial/`.
 */

/** An answer. `body` is parsed JSON, or text where it is none. */
export interface TriedAnswer {
  status: number
  headers: Record<string, string | string[] | undefined>
  // biome-ignore lint/suspicious/noExplicitAny: trials reach into answers of every shape
  body: any
}

/** Asks the service: `POST /v2.1/servers`, below its prefix. Throws Error for what is not answered with 2xx. */
// biome-ignore lint/suspicious/noExplicitAny: as above
export type Ask = (methodAndPath: string, body?: unknown) => Promise<any>

/** What making the nouns of a service can build on. */
export interface Making {
  /** Asks as a member of the project that owns what is made. */
  owner: Ask
  /** Asks as the administrator of the cloud. */
  admin: Ask
  /** Who the owner is. */
  userId: string
  projectId: string
  /** Of another project: the one that may reach nothing. */
  foreignUserId: string
  foreignProjectId: string
  /** What the services to the left have made, by service and key. */
  made: Readonly<Record<string, Readonly<Record<string, string>>>>
  /** Resolves when `done` says so of the answer; rejects after a while. */
  until(ask: () => Promise<unknown>, done: (answer: never) => boolean): Promise<void>
}

export interface Tried {
  /**
   * Makes one of each noun as the owner. Keys are paths with their parameters bare: `/servers/:` is a server's id, `/servers/:/tags/:` one
   * of its tags.
   */
  make(making: Making): Promise<Record<string, string>>
  /** The same for what belongs to the cloud: everybody may read it, and the foreign tenant change nothing. */
  shared?(making: Making): Promise<Record<string, string>>
  /** Keys of {@link make} that belong there. */
  common?: readonly string[]
  /** Bodies of requests which a schema does not tell, by `METHOD /path`: what a sane client would send. `ids` are those made. */
  bodies?(ids: Readonly<Record<string, string>>): Record<string, unknown>
  /** Requests of the foreign tenant that name the owner's things in their bodies or queries. Each must be refused. */
  borrowing?(ids: Readonly<Record<string, string>>, foreignProjectId: string): readonly [methodAndPath: string, body?: unknown][]
  /** Routes, by `METHOD /path`, that the foreign tenant may use with the owner's ids, and why. */
  open?: Readonly<Record<string, string>>
  /** The requests of a service without a table of routes. */
  requests?: readonly { method: string; path: string }[]
  /** Whether a body is this service's error envelope. */
  refusal(body: unknown, status: number): boolean
}

const isObject = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null

/** Whether a value is an object with (at least) these members, each of the given type. */
export const hasShape = (value: unknown, shape: Record<string, 'string' | 'number'>): value is Record<string, unknown> =>
  isObject(value) && Object.entries(shape).every(([key, type]) => typeof value[key] === type)
