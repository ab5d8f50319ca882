/** Brings what a script that runs real servers needs, and could not fetch any more from a machine of its own. */
import { ownerEnsure } from '../../src/cli/instance/user.ts'
import { installPrograms } from '../../src/cli/packages.ts'

const say = (line: string): void => void process.stderr.write(`${line}\n`)
await installPrograms(['host', 'image', 'test'], say)
await ownerEnsure(say)
