/** The limit of object storage in Node: temporary file, MD5, datasync, rename, folder sync; read back with checks left out. */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdir, open, rename, stat } from 'node:fs/promises'
import { createServer } from 'node:http'
import { join } from 'node:path'

const [port, root] = process.argv.slice(2) as [string, string]
await mkdir(join(root, 'tmp'), { recursive: true })
let count = 0

const place = (url: string): { dir: string; file: string } => {
  const hash = createHash('md5').update(url).digest('hex')
  const dir = join(root, hash.slice(0, 2), hash)
  return { dir, file: join(dir, 'data') }
}

const server = createServer(async (req, res) => {
  const { dir, file } = place(req.url!)
  if (req.method === 'GET') {
    const { size } = await stat(file)
    res.writeHead(200, { 'content-length': size })
    if (size < 65536) {
      const handle = await open(file)
      const bytes = Buffer.allocUnsafe(size)
      await handle.read(bytes, 0, size, 0)
      await handle.close()
      res.end(bytes)
    } else createReadStream(file, { highWaterMark: 512 * 1024 }).pipe(res)
    return
  }
  count += 1
  const temporary = join(root, 'tmp', String(count))
  const handle = await open(temporary, 'wx')
  const sum = createHash('md5')
  for await (const chunk of req) {
    sum.update(chunk as Buffer)
    await handle.write(chunk as Buffer)
  }
  await mkdir(dir, { recursive: true })
  await handle.datasync()
  await handle.close()
  await rename(temporary, file)
  const folder = await open(dir)
  await folder.sync()
  await folder.close()
  res.writeHead(201, { etag: sum.digest('hex'), 'content-length': 0 }).end()
})
server.listen(Number(port), '127.0.0.1', () => process.stdout.write('ready\n'))
process.once('SIGTERM', () => process.exit(0))
