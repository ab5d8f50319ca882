/** A command called with a wrong option or argument: printed without a stack, exit code 2. */
export class UsageError extends Error {}
