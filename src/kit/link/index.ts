/** The agent link's face: typed verbs between controllers and host agents. */
export type { AgentLink, HostChange, Hosts, StreamedAnswer } from './types.ts'
export { call, callStream, notify } from './types.ts'
export type { Bytes, CallOptions, LinkLog, Notice, Served, Serving, Streamed, Verb } from './verb.ts'
export { hear, notice, serve, streamed, verb } from './verb.ts'
