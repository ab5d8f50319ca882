/**
 * The watchdog of the tests' PostgreSQL, a process of its own: `node testwatch.ts SOCKET PID`. Stops the server when nobody was
 * connected for a while, and ends with it. Each connected client shows as one more line of the socket's path in /proc/net/unix.
 */
import { readFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'

const [socket, pid] = [process.argv[2]!, Number(process.argv[3])]
const CHECK_MS = 5000
const IDLE_CHECKS = 12

function running(): boolean {
  try {
    // Signal 0 only asks. The socket's line goes with the server, also if the pid is someone else's by now.
    process.kill(pid, 0)
    return sockets() > 0
  } catch {
    return false
  }
}

function sockets(): number {
  return readFileSync('/proc/net/unix', 'utf8')
    .split('\n')
    .filter(line => line.endsWith(socket)).length
}

let idle = 0
while (running()) {
  idle = sockets() > 1 ? 0 : idle + 1
  if (idle >= IDLE_CHECKS) {
    process.kill(pid, 'SIGINT')
    break
  }
  await delay(CHECK_MS)
}
