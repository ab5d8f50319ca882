/** Who may do what with images, as the defaults of 2025.1 have it (oslo.policy names that operators override). */
import type { PolicyRule, Scope } from '#kit/policy/index.ts'

const PROJECT: readonly Scope[] = ['project']
const ADMIN = 'rule:context_is_admin'
const MEMBER_OWN = 'rule:context_is_admin or (role:member and project_id:%(project_id)s)'
const READ =
  "rule:context_is_admin or (role:reader and (project_id:%(project_id)s or project_id:%(member_id)s or 'community':%(visibility)s or 'public':%(visibility)s or 'shared':%(visibility)s))"

const DOWNLOAD = READ.replace('role:reader', 'role:member')

const NAMESPACE = "rule:context_is_admin or (role:reader and (project_id:%(project_id)s or 'public':%(visibility)s))"

const rule = (name: string, check: string, description: string): PolicyRule => ({ name, check, description, scopes: PROJECT })

const METADEF_READS = ['object', 'property', 'tag']
const METADEF_WRITES = [
  ...['add', 'modify', 'delete'].flatMap(verb => [`${verb}_metadef_namespace`, `${verb}_metadef_object`, `${verb}_metadef_tag`]),
  'add_metadef_property',
  'modify_metadef_property',
  'remove_metadef_property',
  'add_metadef_tags',
  'delete_metadef_tags',
  'add_metadef_resource_type_association',
  'remove_metadef_resource_type_association',
]

export const policies: readonly PolicyRule[] = [
  { name: 'context_is_admin', check: 'role:admin', description: 'An administrator of images.' },
  { name: 'service_api', check: 'role:service or role:admin', description: 'Another service.' },
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
  rule('download_image', DOWNLOAD, 'Download the data of an image.'),
  rule('upload_image', MEMBER_OWN, 'Upload the data of an image.'),
  // Glance asks for an administrator here, and lets everybody else through by an older rule that is deprecated; owners keep that right.
  rule('delete_image_location', MEMBER_OWN, 'Remove a location of an image.'),
  rule(
    'get_image_location',
    'rule:context_is_admin or (role:reader and project_id:%(project_id)s)',
    'See the locations of an image.',
  ),
  rule('set_image_location', MEMBER_OWN, 'Give an image a location.'),
  rule(
    'add_image_location',
    'rule:service_api or (role:member and project_id:%(project_id)s and project_id:%(owner)s)',
    'Give a queued image a location, which is read and checked.',
  ),
  rule('fetch_image_location', 'rule:service_api', 'See the locations of an image, as another service.'),
  rule('download_from_store', DOWNLOAD, 'Download the data of an image from a certain store.'),
  rule('stores_info_detail', 'rule:context_is_admin or rule:service_api', 'See how stores are made.'),
  rule('tasks_api_access', ADMIN, 'Use the tasks API.'),
  { name: 'get_task', check: 'rule:default', description: 'Show a task.' },
  { name: 'get_tasks', check: 'rule:default', description: 'List tasks.' },
  { name: 'add_task', check: 'rule:default', description: 'Create a task.' },
  { name: 'modify_task', check: 'rule:default', description: 'Not asked for: tasks are changed by their work alone.' },
  rule('cache_image', ADMIN, 'Put an image into the cache.'),
  rule('cache_list', ADMIN, 'See what the cache holds.'),
  rule('cache_clean', ADMIN, 'Remove what is invalid from the cache.'),
  rule('cache_prune', ADMIN, 'Bring the cache down to its size.'),
  rule('list_cached_nodes', ADMIN, 'See which controllers have a copy of an image.'),
  rule('manage_image_cache', ADMIN, 'An older name of the rules of the cache.'),
  rule('cache_delete', ADMIN, 'Take images out of the cache.'),
  rule('copy_image', ADMIN, 'Copy an image to other stores.'),
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
  rule('metadef_default', '', 'An older name: everybody.'),
  rule('metadef_admin', ADMIN, 'Who defines metadata.'),
  rule('get_metadef_namespace', NAMESPACE, 'Show a namespace.'),
  rule('get_metadef_namespaces', 'rule:context_is_admin or (role:reader and project_id:%(project_id)s)', 'List namespaces.'),
  rule('list_metadef_resource_types', NAMESPACE, 'List kinds of things, and those that a namespace applies to.'),
  rule('get_metadef_resource_type', NAMESPACE, 'Show that a namespace applies to a kind of thing.'),
  ...METADEF_READS.flatMap(one => [
    rule(`get_metadef_${one}`, NAMESPACE, `Show a definition: ${one}.`),
    rule(`get_metadef_${one === 'property' ? 'properties' : `${one}s`}`, NAMESPACE, `List definitions: ${one}.`),
  ]),
  ...METADEF_WRITES.map(name => rule(name, 'rule:metadef_admin', `${name.replaceAll('_', ' ')}.`)),
]
