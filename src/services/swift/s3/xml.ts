/** The little XML that S3 speaks: elements with text, no attributes that matter. */
import { escapeXml } from '../proxy/features/listings.ts'

export interface Element {
  name: string
  text: string
  children: Element[]
}

/** The root element of a document. Throws Error for what is not well formed. */
export function parseXml(source: string): Element {
  const root: Element = { name: '', text: '', children: [] }
  const open = [root]
  const token =
    /<\?[\s\S]*?\?>|<!--[\s\S]*?-->|<(\/?)([\w:.-]+)((?:\s+[\w:.-]+\s*=\s*(?:"[^"<]*"|'[^'<]*'))*)\s*(\/?)>|([^<]+)|</g
  for (let match = token.exec(source); match; match = token.exec(source)) {
    const [all, closing, qualified, , empty, text] = match
    const top = open.at(-1)!
    if (text !== undefined) top.text += unescape(text)
    else if (qualified === undefined) {
      if (all === '<') throw new Error('not well formed')
    } else {
      const name = qualified.slice(qualified.indexOf(':') + 1)
      if (closing) {
        if (open.length < 2 || top.name !== name) throw new Error('not well formed')
        open.pop()
      } else {
        const element: Element = { name, text: '', children: [] }
        top.children.push(element)
        if (!empty) open.push(element)
        if (open.length > 20) throw new Error('nested too deeply')
      }
    }
  }
  if (open.length !== 1 || root.children.length !== 1 || root.text.trim()) throw new Error('not well formed')
  return root.children[0]
}

const unescape = (text: string): string =>
  text.replace(/&(?:lt|gt|amp|quot|apos|#(\d+)|#x([0-9a-fA-F]+));/g, (all, decimal?: string, hex?: string) => {
    if (decimal ?? hex) return String.fromCodePoint(decimal ? Number(decimal) : Number.parseInt(hex!, 16))
    return { '&lt;': '<', '&gt;': '>', '&amp;': '&', '&quot;': '"', '&apos;': "'" }[all]!
  })

export const child = (element: Element, name: string): Element | undefined => element.children.find(one => one.name === name)
export const textOf = (element: Element, name: string): string | undefined => child(element, name)?.text

type Value = string | number | boolean | undefined | null | Tree | Value[]
export interface Tree {
  [name: string]: Value
}

/** A document with that root; arrays repeat their element, undefined leaves it out. */
export const formatXml = (root: string, tree: Tree): Buffer =>
  Buffer.from(
    `<?xml version="1.0" encoding="UTF-8"?>\n<${root} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">${inner(tree)}</${root}>`,
  )

export const inner = (tree: Tree): string =>
  Object.entries(tree)
    .map(([name, value]) => (Array.isArray(value) ? value : [value]).map(one => element(name, one)).join(''))
    .join('')

function element(name: string, value: Value): string {
  if (value === undefined || value === null) return ''
  return `<${name}>${typeof value === 'object' && !Array.isArray(value) ? inner(value) : escapeXml(value)}</${name}>`
}
