/**
 * The watchdog of the tests' PostgreSQL, a process of its own: `node testwatch.ts FOLDER PID`. Stops the server when nobody was
 * connected for a while, and removes its data, which may lie in memory. Ends with the server in any case. Each connected client
 * shows as one more line with the socket's path in /proc/net/unix.
 */
import { existsSync, readFileSync } from 'node:fs'
import { rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'

const [folder, pid] = [process.argv[2]!, Number(process.argv[3])]
const socket = join(folder, 'run', '.s.PGSQL.5432')
const data = join(folder, 'data')
const pidFile = join(data, 'postmaster.pid')
const CHECK_MS = 5000
const IDLE_CHECKS = 36

const running = (): boolean => existsSync(pidFile) && readFileSync(pidFile, 'utf8').startsWith(`${pid}\n`)

/** The server's own socket and one for each client. */
function sockets(): number {
  return readFileSync('/proc/net/unix', 'utf8')
    .split('\n')
    .filter(line => line.endsWith(socket)).length
}

let idle = 0
while (running() && idle < IDLE_CHECKS) {
  await delay(CHECK_MS)
  idle = sockets() > 1 ? 0 : idle + 1
}
if (running()) {
  process.kill(pid, 'SIGINT')
  while (running()) await delay(20)
  // Away in one step: a test that starts now makes new data. One that just started on these tries again.
  const old = `${data}.old.${process.pid}`
  if (!existsSync(pidFile)) await rename(data, old)
  await rm(old, { recursive: true, force: true })
}
