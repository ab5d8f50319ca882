// Boots the built image as a cloud would and looks at it from outside and from inside. About ten seconds of processor a boot.
import assert from 'node:assert/strict'
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { before, describe, type TestContext, test } from 'node:test'
import { run } from '#host/run.ts'
import { type Guest, guestEnsure } from './build.ts'
import { machineStart } from './testing/machine.ts'
import { metadataServe } from './testing/metadata.ts'

const FIRMWARE = '/usr/share/OVMF/OVMF_CODE_4M.fd'
const MIB = 1 << 20

async function has(...program: string[]): Promise<boolean> {
  return run(program).then(
    () => true,
    () => false,
  )
}

const able = (await has('qemu-system-x86_64', '--version')) && (await has('apt-get', '--version')) && (await has('ssh', '-V'))
const skip = able ? false : 'needs qemu-system-x86_64, apt-get and ssh'

/** A folder with a key pair and a disk over the image; removed when the test ends. */
async function bench(
  t: TestContext,
  guest: Guest,
  diskBytes: number,
): Promise<{ folder: string; key: string; publicKey: string; disk: string }> {
  const folder = mkdtempSync(join(tmpdir(), 'nubo-guest-'))
  t.after(() => rmSync(folder, { recursive: true }))
  const key = join(folder, 'key')
  const disk = join(folder, 'disk.qcow2')
  await run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', key])
  await run(['qemu-img', 'create', '-q', '-f', 'qcow2', '-b', guest.image, '-F', 'qcow2', disk, String(diskBytes)])
  return { folder, key, publicKey: readFileSync(`${key}.pub`, 'utf8').trim(), disk }
}

const drive = (file: string, format: string) => ['-drive', `if=virtio,file=${file},format=${format}`]
const direct = (guest: Guest) => ['-kernel', guest.kernel, '-initrd', guest.initrd, '-append', guest.commandLine]

const userData = '#!/bin/sh\necho "greetings from $(hostname)"\nid -un >/home/guest/who\nexit 3\n'

describe('guest image', { skip }, () => {
  const cache = process.env.NUBO_GUEST_CACHE ?? join(tmpdir(), `nubo-guest-cache-${process.getuid?.()}`)
  let guest: Guest
  before(async () => {
    guest = await guestEnsure(cache)
  })

  test('a second build only looks', async () => {
    const began = performance.now()
    assert.deepEqual(await guestEnsure(cache), guest)
    assert.ok(performance.now() - began < 1000)
  })

  test('by its kernel, with DHCP and the metadata service', async t => {
    const { folder, key, publicKey, disk } = await bench(t, guest, 1024 * MIB)
    const document = { uuid: 'f00d', hostname: 'web.example.org', public_keys: { mine: publicKey }, admin_pass: 'ignored' }
    const service = await metadataServe({ 'meta_data.json': JSON.stringify(document), user_data: userData })
    t.after(service.close)
    const agent = ['-device', 'virtio-serial-pci', '-device', 'virtserialport,chardev=qga,name=org.qemu.guest_agent.0']
    const machine = await machineStart({
      folder,
      metadataPort: service.port,
      args: [
        ...direct(guest),
        ...drive(disk, 'qcow2'),
        ...agent,
        '-chardev',
        `socket,id=qga,path=${join(folder, 'qga')},server=on,wait=off`,
      ],
    })
    t.after(machine.stop)

    await machine.line(/guest \[.*\]: ready/)
    t.diagnostic(`ready after ${Math.round(machine.elapsed())} ms`)
    assert.match(await machine.line(/user data: ended/), /with code 3/)
    await machine.prompt(/web login:/)
    assert.match(machine.console(), /greetings from web/)
    assert.match(machine.console(), /instance f00d, host name web/)

    assert.equal(
      await machine.ssh(key, 'hostname; hostname -f 2>/dev/null; sudo id -un; cat who'),
      'web\nweb.example.org\nroot\nroot',
    )
    assert.equal(await machine.ssh(key, 'sudo grep -c "^guest:.6.rounds\\|^guest:.6." /etc/shadow'), '1')
    const kib = Number(await machine.ssh(key, "df -k / | awk 'NR == 2 { print $2 }'"))
    assert.ok(kib > 900_000, `root has ${kib} KiB of a 1 GiB disk`)
    assert.equal(await machine.ssh(key, 'find / -xdev ! -user root ! -path "/home/guest*" | head'), '')
    assert.equal(await machine.ssh(key, 'pidof qemu-ga | wc -w'), '1')

    await t.test('a network interface plugged in later asks DHCP, a disk plugged in later is there', async () => {
      await machine.qmp('netdev_add', { type: 'user', id: 'net1', net: '10.9.0.0/24' })
      await machine.qmp('device_add', { driver: 'virtio-net-pci', netdev: 'net1', bus: 'port1', mac: '52:54:00:00:00:02' })
      await machine.line(/eth1 has 10\.9\.0\.15\/24/)
      const extra = join(folder, 'extra.raw')
      await run(['qemu-img', 'create', '-q', '-f', 'raw', extra, '8M'])
      await machine.qmp('blockdev-add', { driver: 'file', filename: extra, 'node-name': 'extra' })
      await machine.qmp('device_add', { driver: 'virtio-blk-pci', drive: 'extra', bus: 'port2', serial: 'volume-1' })
      const seen = await machine.ssh(
        key,
        'for i in 1 2 3 4 5 6 7 8 9; do [ -b /dev/vdb ] && break; usleep 300000; done; lsblk -dno SIZE /dev/vdb; cat /sys/block/vdb/serial',
      )
      assert.equal(seen.replace(/\s+/g, ' '), '8M volume-1')
    })

    await t.test('the power button switches it off', async () => {
      await machine.qmp('system_powerdown')
      await machine.off()
    })

    await t.test('on the next boot it stays the same instance and runs no user data again', async () => {
      const again = await machineStart({ folder, metadataPort: service.port, args: [...direct(guest), ...drive(disk, 'qcow2')] })
      t.after(again.stop)
      await again.line(/guest \[.*\]: ready/)
      assert.equal(await again.ssh(key, 'hostname'), 'web')
      assert.doesNotMatch(again.console(), /user data/)
    })
  })

  test('by BIOS, with a configuration drive (iso9660) that gives a static address and a password', async t => {
    const { folder, key, publicKey, disk } = await bench(t, guest, 512 * MIB)
    const latest = join(folder, 'drive/openstack/latest')
    mkdirSync(latest, { recursive: true })
    const document = { uuid: 'beef', hostname: 'static', public_keys: { mine: publicKey }, admin_pass: 'pa:ss word' }
    writeFileSync(join(latest, 'meta_data.json'), JSON.stringify(document))
    writeFileSync(join(latest, 'user_data'), '#!/bin/sh\ncat /etc/resolv.conf\n')
    const network = {
      links: [{ id: 'tap0', type: 'phy', ethernet_mac_address: '52:54:00:00:00:01', mtu: 1400 }],
      networks: [
        {
          ...{ id: 'network0', type: 'ipv4', link: 'tap0', ip_address: '10.0.2.77', netmask: '255.255.255.0' },
          routes: [{ network: '0.0.0.0', netmask: '0.0.0.0', gateway: '10.0.2.2' }],
        },
        {
          id: 'network1',
          type: 'ipv6',
          link: 'tap0',
          ip_address: 'fd00:7::77/64',
          routes: [{ network: '::', netmask: '::', gateway: 'fd00:7::1' }],
        },
      ],
      services: [{ type: 'dns', address: '10.0.2.3' }],
    }
    writeFileSync(join(latest, 'network_data.json'), JSON.stringify(network))
    const iso = join(folder, 'config.iso')
    await run(['genisoimage', '-quiet', '-R', '-J', '-V', 'config-2', '-o', iso, join(folder, 'drive')])
    const machine = await machineStart({ folder, address: '10.0.2.77', args: [...drive(disk, 'qcow2'), ...drive(iso, 'raw')] })
    t.after(machine.stop)

    await machine.line(/guest \[.*\]: ready/)
    t.diagnostic(`ready after ${Math.round(machine.elapsed())} ms`)
    await machine.line(/nameserver 10\.0\.2\.3/)
    const addresses = await machine.ssh(key, 'ip -o addr show eth0; ip route; ip -6 route')
    assert.match(addresses, /10\.0\.2\.77\/24/)
    assert.match(addresses, /fd00:7::77\/64/)
    assert.match(addresses, /default via 10\.0\.2\.2/)
    assert.match(addresses, /default via fd00:7::1/)
    assert.doesNotMatch(addresses, /10\.0\.2\.15/, 'DHCP was asked although the addresses are given')
    assert.equal(await machine.ssh(key, 'hostname'), 'static')
    const shadow = await machine.ssh(key, 'sudo awk -F: \'$1 == "guest" { print $2 }\' /etc/shadow')
    const [, , salt] = shadow.split('$')
    assert.equal(await machine.ssh(key, `printf '%s' 'pa:ss word' | mkpasswd -m sha512 -P 0 -S '${salt}'`), shadow)
  })

  test('by UEFI, with a configuration drive (vfat)', {
    skip: existsSync(FIRMWARE) ? false : 'needs the package ovmf',
  }, async t => {
    const { folder, key, publicKey, disk } = await bench(t, guest, 512 * MIB)
    const latest = join(folder, 'openstack/latest')
    mkdirSync(latest, { recursive: true })
    writeFileSync(
      join(latest, 'meta_data.json'),
      JSON.stringify({ uuid: 'cafe', hostname: 'efi', public_keys: { mine: publicKey } }),
    )
    const fat = join(folder, 'config.fat')
    await run(['mformat', '-C', '-T', '8192', '-h', '16', '-s', '32', '-v', 'config-2', '-i', fat, '::'])
    await run(['mcopy', '-s', '-i', fat, join(folder, 'openstack'), '::'])
    const variables = join(folder, 'vars.fd')
    copyFileSync('/usr/share/OVMF/OVMF_VARS_4M.fd', variables)
    const firmware = [`if=pflash,format=raw,readonly=on,file=${FIRMWARE}`, `if=pflash,format=raw,file=${variables}`]
    const args = [...firmware.flatMap(value => ['-drive', value]), ...drive(disk, 'qcow2'), ...drive(fat, 'raw')]
    const machine = await machineStart({ folder, args })
    t.after(machine.stop)
    await machine.line(/guest \[.*\]: ready/)
    t.diagnostic(`ready after ${Math.round(machine.elapsed())} ms`)
    assert.equal(await machine.ssh(key, 'hostname; [ -d /sys/firmware/efi ] && echo efi'), 'efi\nefi')
  })

  test('without network and configuration drive it comes to its login prompt at once', async t => {
    const { folder, disk } = await bench(t, guest, 256 * MIB)
    const args = [
      ...direct(guest),
      '-device',
      'virtio-scsi-pci',
      '-drive',
      `if=none,id=d,file=${disk}`,
      '-device',
      'scsi-hd,drive=d',
    ]
    const machine = await machineStart({ folder, args, isolated: true })
    t.after(machine.stop)
    await machine.prompt(/guest login:/, 30_000)
  })
})
