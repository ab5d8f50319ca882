/** HTTP's face for those who start servers; services import `route.ts` and `schema.ts` themselves. */
export type { Exchange, Identify } from './app.ts'
export { type Cors, corsOf, corsSettings } from './cors.ts'
export { type HarRecorder, harOf, harRecorder } from './har.ts'
export { type Listening, listen, server } from './server.ts'
