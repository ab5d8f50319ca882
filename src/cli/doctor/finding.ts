/** What the doctor found about one thing of the host. */
export interface Finding {
  /** Heading under which it is shown. */
  group: string
  name: string
  /** `missing`: Nubo cannot run real servers here; `limited`: it can, without something or slower; `ok`. */
  state: 'ok' | 'limited' | 'missing'
  /** What was seen. */
  seen: string
  /** What does not work, or works worse; for all that is not ok. */
  consequence?: string
  /** The command, or the act, that mends it; absent when nothing on this host can. */
  mend?: string
}

/** Makes findings of one group. */
export const findings = (group: string) => ({
  ok: (name: string, seen: string): Finding => ({ group, name, state: 'ok', seen }),
  limited: (name: string, seen: string, consequence: string, mend?: string): Finding => ({
    ...{ group, name, state: 'limited', seen, consequence },
    ...(mend && { mend }),
  }),
  missing: (name: string, seen: string, consequence: string, mend?: string): Finding => ({
    ...{ group, name, state: 'missing', seen, consequence },
    ...(mend && { mend }),
  }),
})
