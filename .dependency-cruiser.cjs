// The import line: cli, roles > services > host > kit, and among the services only to the left and only index.ts.
const SERVICES = ['keystone', 'placement', 'swift', 'glance', 'neutron', 'cinder', 'ironic', 'nova', 'ceilometer', 'heat', 'magnum']

const rightOf = name => SERVICES.slice(SERVICES.indexOf(name) + 1).join('|')

module.exports = {
  forbidden: [
    {
      name: 'kit-imports-nothing-above',
      comment: 'kit knows no service, no host code and no command: move what it needs down, or pass it as an argument.',
      severity: 'error',
      from: { path: '^src/kit/' },
      to: { path: '^src/(?!kit/)' },
    },
    {
      name: 'host-imports-only-kit',
      comment: 'host/ touches the machine and knows nothing above it.',
      severity: 'error',
      from: { path: '^src/host/' },
      to: { path: '^src/(?!host/|kit/)' },
    },
    {
      name: 'services-do-not-import-commands',
      severity: 'error',
      from: { path: '^src/services/' },
      to: { path: '^src/(cli|roles|main)' },
    },
    {
      name: 'only-agents-touch-the-host',
      comment: "Only a service's agent/ imports host/: everything else runs without privileges, maybe on another machine.",
      severity: 'error',
      from: { path: '^src/services/', pathNot: '^src/services/[^/]+/agent/' },
      to: { path: '^src/host/' },
    },
    {
      name: 'services-through-their-index',
      comment: 'A service is used by another through its index.ts only.',
      severity: 'error',
      from: { path: '^src/services/([^/]+)/' },
      to: { path: '^src/services/', pathNot: ['^src/services/$1/', '^src/services/[^/]+/index[.]ts$'] },
    },
    ...SERVICES.slice(0, -1).map(name => ({
      name: `${name}-does-not-import-to-its-right`,
      comment: 'To the right a service speaks by events.',
      severity: 'error',
      from: { path: `^src/services/${name}/` },
      to: { path: `^src/services/(${rightOf(name)})/` },
    })),
    {
      name: 'known-services-only',
      comment: 'A new service needs its place in the line, at the top of .dependency-cruiser.cjs.',
      severity: 'error',
      from: { path: '^src/' },
      to: { path: '^src/services/[^/]+/', pathNot: `^src/services/(${SERVICES.join('|')})/` },
    },
    {
      name: 'product-does-not-import-tests',
      severity: 'error',
      from: { path: '^src/', pathNot: '([.]|/)test[.]ts$' },
      to: { path: '[.]test[.]ts$' },
    },
    {
      name: 'no-cycles',
      comment: 'Cycles of values make the order of loading matter; cycles of types alone are fine.',
      severity: 'error',
      from: {},
      to: { circular: true, viaOnly: { dependencyTypesNot: ['type-only'] } },
    },
    { name: 'resolvable', severity: 'error', from: {}, to: { couldNotResolve: true } },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.json' },
    enhancedResolveOptions: { exportsFields: ['exports'], conditionNames: ['import', 'node', 'default'], extensions: ['.ts', '.js', '.json'] },
  },
}
