/** Access control lists of containers: `.r:*`, `.r:.example.com,-.bad.example.com`, `.rlistings`, `project:user`, roles. */

/** The list in canonical form, or what is wrong with it. `name`: the header it comes in. */
export function cleanAcl(name: string, value: string): string | { problem: string } {
  const values: string[] = []
  for (const raw of value.split(',')) {
    let item = raw.trim()
    if (!item) continue
    if (!item.includes(':')) {
      values.push(item)
      continue
    }
    const cut = item.indexOf(':')
    let first = item.slice(0, cut).trim()
    let second = item.slice(cut + 1).trim()
    if (!first.startsWith('.')) {
      values.push(item)
      continue
    }
    if (!['.r', '.ref', '.referer', '.referrer'].includes(first))
      return { problem: `Unknown designator ${JSON.stringify(first)} in ACL: ${JSON.stringify(raw)}` }
    if (name.includes('write')) return { problem: `Referrers not allowed in write ACL: ${JSON.stringify(raw)}` }
    first = '.r'
    let negate = ''
    if (second.startsWith('-')) {
      negate = '-'
      second = second.slice(1).trim()
    }
    if (second && second !== '*' && second.startsWith('*')) second = second.slice(1).trim()
    if (!second || second === '.')
      return { problem: `No host/domain value after referrer designation in ACL: ${JSON.stringify(raw)}` }
    item = `${first}:${negate}${second}`
    values.push(item)
  }
  return values.join(',')
}

/** The referrers and the groups (or users) of a list. */
export function parseAcl(acl: string | null): { referrers: string[]; groups: string[] } {
  const referrers: string[] = []
  const groups: string[] = []
  for (const item of (acl ?? '').split(',')) {
    if (item.startsWith('.r:')) referrers.push(item.slice(3))
    else if (item.trim()) groups.push(item.trim())
  }
  return { referrers, groups }
}

/** Whether a `Referer` header is let in by the list; the last rule that fits decides. */
export function referrerAllowed(referrer: string | undefined, rules: string[]): boolean {
  let allowed = false
  if (rules.length === 0) return false
  let host = 'unknown'
  if (referrer) {
    try {
      host = new URL(referrer).hostname || 'unknown'
    } catch {
      host = 'unknown' // anything may stand in that header
    }
  }
  for (const rule of rules) {
    if (rule.startsWith('-')) {
      const domain = rule.slice(1)
      if (domain === host || (domain.startsWith('.') && host.endsWith(domain))) allowed = false
    } else if (rule === '*' || rule === host || (rule.startsWith('.') && host.endsWith(rule))) allowed = true
  }
  return allowed
}
