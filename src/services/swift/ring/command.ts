/** `nubo swift ring`: makes and changes rings by the words of `swift-ring-builder`. */
import { existsSync } from 'node:fs'
import {
  addDevice,
  type Builder,
  balanceOf,
  builderOf,
  cancelPower,
  composite,
  dispersionOf,
  increasePower,
  newBuilder,
  rebalance,
  removeDevice,
  ringOf,
  setWeight,
  validate,
} from './builder.ts'
import { findDevices, formatDevice, parseDevice, parseWeight } from './devices.ts'
import { loadBuilder, saveBuilder } from './file.ts'
import { loadRing, saveRing } from './io.ts'

export const RING_HELP = `Usage: nubo swift ring FILE.builder [WORD [ARGUMENT...]]

  (no word)                                 what is in it
  create POWER REPLICAS MIN_PART_HOURS      a new builder
  add DEVICE WEIGHT [DEVICE WEIGHT...]      DEVICE: [rREGION]zZONE-IP:PORT[RIP:PORT]/NAME[_META]
  search DEVICES                            DEVICES: [dID][rREGION][zZONE][-IP][:PORT][/NAME][_META], all that fit
  set_weight DEVICES WEIGHT                 0 empties a device over time
  set_info DEVICES NEW                      another [IP][:PORT][RIP:PORT][/NAME][_META]
  remove DEVICES                            gone at the next rebalance
  rebalance [--seed N]                      assign partitions, then write FILE.ring.gz
  write_ring                                FILE.ring.gz as it is
  write_builder MIN_PART_HOURS              a builder for FILE.ring.gz, whose own is lost or of another program
  validate, dispersion                      look it through
  set_replicas N, set_min_part_hours N, set_overload SHARE
  pretend_min_part_hours_passed             let all partitions move at the next rebalance
  prepare_increase_partition_power          1. announce twice as many partitions; give the ring out, let every host's relinker pass
  increase_partition_power                  2. have them; give the ring out, let every relinker pass again
  finish_increase_partition_power           3. the end; give the ring out
  cancel_increase_partition_power           instead of 2; then let every relinker pass, and finish
  compose RING.gz RING.gz...                FILE.ring.gz of the replicas of several rings, each of regions of its own

Exit code 1 when nothing had to be done.
`

/** Runs one word; answers the exit code. Throws Error for what is wrong. */
export async function ringCommand(argv: string[], print: (line: string) => void): Promise<number> {
  const [file, word = 'show', ...words] = argv
  if (!file?.endsWith('.builder')) throw new Error('the first argument is the file of the builder: NAME.builder')
  const ringFile = file.replace(/builder$/, 'ring.gz')
  const whole = (text: string | undefined, what: string): number => {
    if (text === undefined || !/^\d+$/.test(text)) throw new Error(`${what}: '${text ?? ''}' is no whole number`)
    return Number(text)
  }
  const number = (text: string | undefined, what: string): number => {
    if (!text || !Number.isFinite(Number(text))) throw new Error(`${what}: '${text ?? ''}' is no number`)
    return Number(text)
  }
  if (word === 'create') {
    if (existsSync(file)) throw new Error(`${file} is there already`)
    await saveBuilder(file, newBuilder(whole(words[0], 'POWER'), number(words[1], 'REPLICAS'), whole(words[2], 'MIN_PART_HOURS')))
    return 0
  }
  if (word === 'write_builder') {
    if (existsSync(file)) throw new Error(`${file} is there already`)
    await saveBuilder(file, builderOf(await loadRing(ringFile), whole(words[0], 'MIN_PART_HOURS')))
    return 0
  }
  if (word === 'compose') {
    if (words.length < 2) throw new Error('compose takes two rings or more')
    await saveRing(ringFile, composite(await Promise.all(words.map(loadRing))))
    return 0
  }
  const b = await loadBuilder(file)
  const changed = change(b, word, words, print, { whole, number })
  if (changed !== null) {
    if (changed) await saveBuilder(file, b)
    if (changed && GIVEN_OUT.has(word)) await saveRing(ringFile, ringOf(b))
    return changed ? 0 : 1
  }
  switch (word) {
    case 'write_ring':
      if (b.table.length === 0) throw new Error('nothing is assigned yet: rebalance first')
      await saveRing(ringFile, ringOf(b))
      return 0
    case 'show':
      show(b, file, print)
      return 0
    case 'search':
      for (const device of findDevices(b, words[0] ?? '')) print(line(b, device.id))
      return 0
    case 'validate':
      for (const problem of validate(b)) throw new Error(problem)
      return 0
    case 'dispersion':
      print(`dispersion ${dispersionOf(b).toFixed(2)} %, balance ${balanceOf(b).toFixed(2)} %`)
      return 0
    default:
      throw new Error(`there is no word '${word}'`)
  }
}

const GIVEN_OUT = new Set([
  'rebalance',
  'prepare_increase_partition_power',
  'increase_partition_power',
  'finish_increase_partition_power',
  'cancel_increase_partition_power',
])

interface Numbers {
  whole(text: string | undefined, what: string): number
  number(text: string | undefined, what: string): number
}

/** Changes the builder; false when there was nothing to change, null when the word changes nothing. */
function change(
  b: Builder,
  word: string,
  words: string[],
  print: (line: string) => void,
  { whole, number }: Numbers,
): boolean | null {
  const [first = '', second = ''] = words
  switch (word) {
    case 'add': {
      if (words.length === 0 || words.length % 2) throw new Error('add takes pairs of a device and a weight')
      const news = words.flatMap((text, i) => (i % 2 ? [] : [parseDevice(text, words[i + 1]!)]))
      for (const device of news) print(`device ${addDevice(b, device)}: ${formatDevice({ ...device, id: 0 })}`)
      return true
    }
    case 'set_weight': {
      const weight = parseWeight(second)
      for (const { id } of findDevices(b, first)) setWeight(b, id, weight)
      return true
    }
    case 'set_info':
      for (const device of findDevices(b, first)) Object.assign(device, parseInfo(second))
      b.version += 1
      return true
    case 'remove':
      for (const { id } of findDevices(b, first)) if (!b.removed.includes(id)) removeDevice(b, id)
      return true
    case 'rebalance': {
      const seed = first === '--seed' ? whole(second, '--seed') : undefined
      const { moved, balance, removed } = rebalance(b, { seed })
      print(`${moved} parts of ${2 ** b.power * b.replicas} moved; balance ${balance.toFixed(2)} %, ${removed} devices removed`)
      return moved > 0 || removed > 0
    }
    case 'set_replicas':
      if (!(number(first, 'N') >= 1)) throw new Error('at least one replica')
      b.replicas = Number(first)
      return true
    case 'set_min_part_hours':
      b.minPartHours = whole(first, 'N')
      return true
    case 'set_overload':
      if (!(number(first.replace(/%$/, ''), 'SHARE') >= 0)) throw new Error('an overload is not negative')
      b.overload = first.endsWith('%') ? Number(first.slice(0, -1)) / 100 : Number(first)
      return true
    case 'pretend_min_part_hours_passed':
      b.moved.fill(0)
      return true
    case 'prepare_increase_partition_power':
      increasePower(b, 1)
      return true
    case 'increase_partition_power':
      increasePower(b, 2)
      return true
    case 'finish_increase_partition_power':
      increasePower(b, 3)
      return true
    case 'cancel_increase_partition_power':
      cancelPower(b)
      return true
    default:
      return null
  }
}

function parseInfo(text: string): Record<string, string | number> {
  const match =
    /^(?:(\[[0-9a-fA-F:.]+\]|[^\s:/_[\]]+))?(?::(\d+))?(?:R(\[[0-9a-fA-F:.]+\]|[^\s:/[\]]+):(\d+))?(?:\/([^_/\s]+))?(?:_(.*))?$/.exec(
      text,
    )
  if (!match || text === '') throw new Error(`'${text}' tells nothing new: [IP][:PORT][RIP:PORT][/NAME][_META]`)
  const [, ip, port, replicationIp, replicationPort, device, meta] = match
  const plain = (address: string): string => address.replace(/^\[|\]$/g, '')
  return {
    ...(ip !== undefined && { ip: plain(ip) }),
    ...(port !== undefined && { port: Number(port) }),
    ...(replicationIp !== undefined && { replicationIp: plain(replicationIp), replicationPort: Number(replicationPort) }),
    ...(device !== undefined && { device }),
    ...(meta !== undefined && { meta }),
  }
}

function show(b: Builder, file: string, print: (line: string) => void): void {
  const live = b.devices.filter(device => device !== null)
  const count = (of: (d: (typeof live)[number]) => string | number): number => new Set(live.map(of)).size
  print(`${file}: version ${b.version}`)
  print(
    `${2 ** b.power} partitions, ${b.replicas} replicas, ${count(d => d.region)} regions, ${count(d => `${d.region} ${d.zone}`)} zones, ${live.length} devices`,
  )
  print(`a partition moves once in ${b.minPartHours} hours; overload ${(b.overload * 100).toFixed(2)} %`)
  if (b.table.length) print(`balance ${balanceOf(b).toFixed(2)} %, dispersion ${dispersionOf(b).toFixed(2)} %`)
  if (b.nextPartPower !== null) print(`the part power grows: ${b.power}, next ${b.nextPartPower}`)
  for (const { id } of live) print(line(b, id))
}

function line(b: Builder, id: number): string {
  const device = b.devices[id]!
  const parts = b.table.reduce((sum, row) => sum + row.filter(one => one === id).length, 0)
  const gone = b.removed.includes(id) ? '  removed at the next rebalance' : ''
  return `d${id}  ${formatDevice(device)}  weight ${device.weight}  ${parts} parts${gone}`
}
