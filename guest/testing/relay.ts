/** Joins stdin and stdout to a TCP port of this host: what qemu's guestfwd starts for each connection of the guest. */
import { connect } from 'node:net'

const socket = connect(Number(process.argv[2]), '127.0.0.1')
process.stdin.pipe(socket)
socket.pipe(process.stdout)
socket.on('close', () => process.exit())
socket.on('error', () => process.exit(1))
