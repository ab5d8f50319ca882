import { Array, Boolean, Nullable, String, Unsafe } from '#kit/http/schema.ts'

// Shapes that requests share, with the limits that Keystone sets.

/** A name: not empty, not only blanks. */
export const Name = (maxLength = 255) => String({ minLength: 1, maxLength, pattern: '\\S' })
export const Id = () => String({ minLength: 1, maxLength: 64, pattern: '^[a-zA-Z0-9-]+$' })
export const OptionalId = () => Nullable(Id())
export const Text = () => Nullable(String())
export const Flag = () => Boolean()
/** Tags: no comma and no slash, since they stand in lists and paths. */
export const Tag = () => String({ minLength: 1, maxLength: 255, pattern: '^[^,/]+$' })
export const Tags = () => Array(Tag(), { maxItems: 80, uniqueItems: true })
/** A resource option: null takes it away. */
export const OptionFlag = () => Unsafe<boolean | null>({ enum: [true, false, null] })

/** Whether a name has characters that mean something else in a URL. */
export const urlReserved = (name: unknown): boolean => typeof name === 'string' && /[:/?#[\]@!$&'()*+,;=]/.test(name)
