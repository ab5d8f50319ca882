/** Who may do what with images, as the defaults of 2025.1 have it (oslo.policy names that operators override). */
import type { PolicyRule, Scope } from '#kit/policy/index.ts'

const PROJECT: readonly Scope[] = ['project']
const ADMIN = 'rule:context_is_admin'
const MEMBER_OWN = 'rule:context_is_admin or (role:member and project_id:%(project_id)s)'
const READ =
  "rule:context_is_admin or (role:reader and (project_id:%(project_id)s or project_id:%(member_id)s or 'community':%(visibility)s or 'public':%(visibility)s or 'shared':%(visibility)s))"

const rule = (name: string, check: string, description: string): PolicyRule => ({ name, check, description, scopes: PROJECT })

export const policies: readonly PolicyRule[] = [
  { name: 'context_is_admin', check: 'role:admin', description: 'An administrator of images.' },
  { name: 'default', check: '', description: 'What no other rule names.' },
  rule(
    'add_image',
    'rule:context_is_admin or (role:member and project_id:%(project_id)s and project_id:%(owner)s)',
    'Create an image.',
  ),
  rule('delete_image', MEMBER_OWN, 'Delete an image.'),
  rule('get_image', READ, 'Show an image.'),
  rule('get_images', 'rule:context_is_admin or (role:reader and project_id:%(project_id)s)', 'List images.'),
  rule('modify_image', MEMBER_OWN, 'Change an image.'),
  rule('publicize_image', ADMIN, 'Make an image public.'),
  rule('communitize_image', MEMBER_OWN, 'Let everybody use an image who knows its id.'),
  rule('download_image', READ, 'Download the data of an image.'),
  rule('upload_image', MEMBER_OWN, 'Upload the data of an image.'),
  rule('add_member', MEMBER_OWN, 'Share an image with another project.'),
  rule('delete_member', MEMBER_OWN, 'Take an image back from another project.'),
  rule(
    'get_member',
    'rule:context_is_admin or role:reader and (project_id:%(project_id)s or project_id:%(member_id)s)',
    'Show a member of an image.',
  ),
  rule(
    'get_members',
    'rule:context_is_admin or role:reader and (project_id:%(project_id)s or project_id:%(member_id)s)',
    'List the members of an image.',
  ),
  rule(
    'modify_member',
    'rule:context_is_admin or (role:member and project_id:%(member_id)s)',
    'Accept or reject an image that was shared.',
  ),
  rule('deactivate', MEMBER_OWN, 'Forbid the download of an image for the time being.'),
  rule('reactivate', MEMBER_OWN, 'Allow it again.'),
]
