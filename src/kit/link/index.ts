/** The agent link's face: typed verbs between controllers and host agents. */
export type { DialOptions, Way } from './agent.ts'
export { dial } from './agent.ts'
export { ago, type LinkCode, linkCode } from './faults.ts'
export type { HostMemory, HostsOptions, OpenHosts } from './hosts.ts'
export { hostsOpen } from './hosts.ts'
export { type Answers, inquire, inquiriesAnswer } from './inquiry.ts'
export { type Joined, joinCloud, joinHandler, joinTokenFor } from './join.ts'
export { memoryWay } from './memory.ts'
export { type Presence, presenceOf } from './presence.ts'
export {
  authenticator,
  type HostState,
  hostFetch,
  hostJoin,
  hostList,
  hostRemove,
  hostSecretEnsure,
  hostsEnsure,
  joinTokenCreate,
} from './registry.ts'
export type { AgentLink, HostChange, Hosts, StreamedAnswer } from './types.ts'
export { call, callStream, hostAwaited, notify } from './types.ts'
export { unixListen, unixWay } from './unix.ts'
export type { Bytes, CallOptions, LinkLog, Notice, Served, Serving, Streamed, Verb } from './verb.ts'
export { hear, notice, serve, streamed, verb } from './verb.ts'
export { wayOf } from './way.ts'
export { agentEndpoint } from './websocket.ts'
export type { Wire } from './wire.ts'
