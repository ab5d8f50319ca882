/** A browser as far as logins need one: follows redirects, keeps cookies by host, fills in forms. */

export interface Page {
  url: string
  status: number
  html: string
}

export interface Browser {
  open(url: string): Promise<Page>
  /** Sends the page's first form with its hidden fields and these. */
  submit(page: Page, fields: Record<string, string>): Promise<Page>
}

const MOST_REDIRECTS = 10

/** A browser without any cookie. */
export function browser(): Browser {
  const jars = new Map<string, Map<string, string>>()

  async function load(address: string, form?: URLSearchParams): Promise<Page> {
    let url = address
    let body = form
    for (let hop = 0; hop < MOST_REDIRECTS; hop++) {
      const { host } = new URL(url)
      const jar = jars.get(host) ?? new Map<string, string>()
      jars.set(host, jar)
      const cookie = [...jar].map(([name, value]) => `${name}=${value}`).join('; ')
      const answer = await fetch(url, {
        method: body ? 'POST' : 'GET',
        redirect: 'manual',
        headers: cookie === '' ? {} : { cookie },
        body,
      })
      for (const set of answer.headers.getSetCookie()) {
        const [, name, value] = /^([^=]+)=([^;]*)/.exec(set)!
        if (value === '') jar.delete(name!)
        else jar.set(name!, value!)
      }
      const location = answer.headers.get('location')
      if (answer.status < 300 || answer.status > 399 || location === null) {
        return { url, status: answer.status, html: await answer.text() }
      }
      url = new URL(location, url).href
      body = undefined
    }
    throw new Error(`${address} redirects for ever`)
  }

  return {
    open: url => load(url),
    submit({ url, html }, fields) {
      const [, action] = /<form[^>]* action="([^"]*)"/.exec(html) ?? []
      if (action === undefined) throw new Error(`no form at ${url}:\n${html}`)
      const hidden = [...html.matchAll(/<input[^>]* type="hidden" name="([^"]+)" value="([^"]*)"/g)]
      const form = new URLSearchParams(hidden.map(([, name, value]): [string, string] => [name!, value!]))
      for (const [name, value] of Object.entries(fields)) form.set(name, value)
      return load(new URL(action.replaceAll('&amp;', '&'), url).href, form)
    },
  }
}
