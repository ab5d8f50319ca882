/** The page that a browser opens for a graphical console, and noVNC's own files. They are the same for everybody: the token is in the URL. */
import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, extname, join } from 'node:path'
import { notFound } from '#kit/fault.ts'
import { bytes, type Route, route } from '#kit/http/route.ts'

const PAGE = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>noVNC</title>
<style>
html, body { height: 100%; margin: 0; background: #151515; color: #eee; font: 14px system-ui, sans-serif }
body { display: flex; flex-direction: column }
#bar { display: flex; gap: 1em; padding: .5em 1em; align-items: center }
#state { flex: 1 }
#screen { flex: 1; min-height: 0 }
</style>
<script type="module">
import RFB from './core/rfb.js'
const state = document.getElementById('state')
const query = new URLSearchParams(location.search)
const scheme = location.protocol === 'https:' ? 'wss' : 'ws'
const rfb = new RFB(document.getElementById('screen'), scheme + '://' + location.host + '/' + query.get('path'), {
  wsProtocols: ['binary'],
})
rfb.scaleViewport = true
rfb.addEventListener('connect', () => { state.textContent = 'Connected' })
rfb.addEventListener('desktopname', event => { document.title = event.detail.name + ' - noVNC' })
rfb.addEventListener('disconnect', event => {
  state.textContent = event.detail.clean ? 'Disconnected' : 'The connection was lost. Ask for a new console URL.'
})
document.getElementById('keys').onclick = () => rfb.sendCtrlAltDel()
</script>
</head>
<body>
<div id="bar"><span id="state">Connecting</span><button id="keys">Ctrl+Alt+Del</button></div>
<div id="screen"></div>
</body>
</html>
`

const TYPES: Record<string, string> = { '.js': 'text/javascript; charset=utf-8', '.css': 'text/css; charset=utf-8' }

/** Where noVNC is installed. Found when first asked for. */
const root = (): string => dirname(dirname(createRequire(import.meta.url).resolve('@novnc/novnc')))

const names = /^(core|vendor)(\/[A-Za-z0-9_-][A-Za-z0-9._-]*)+$/

export const consolePages: Route[] = [
  route({
    method: 'GET',
    path: '/novnc/vnc_lite.html',
    mounts: [''],
    policy: null,
    auth: 'none',
    handle({ reply }) {
      reply.headers['Cache-Control'] = 'no-store'
      reply.headers['Referrer-Policy'] = 'no-referrer'
      return bytes(PAGE, { type: 'text/html; charset=utf-8' })
    },
  }),
  route({
    method: 'GET',
    path: '/novnc/*',
    mounts: [''],
    policy: null,
    auth: 'none',
    async handle({ params, reply }) {
      const name = params['*'] ?? ''
      const type = TYPES[extname(name)]
      if (!type || !names.test(name)) throw notFound('The resource could not be found.')
      const path = join(root(), name)
      const found = await stat(path).catch(() => undefined)
      if (!found?.isFile()) throw notFound('The resource could not be found.')
      reply.headers['Cache-Control'] = 'max-age=3600'
      return bytes(createReadStream(path), { type, length: found.size })
    },
  }),
]
