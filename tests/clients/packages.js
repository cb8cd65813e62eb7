// Packages and bindings.
'use strict'
const { assert, annotation, flow, refused } = require('./client')

flow('packages', async ({ ow, prefix }) => {
  const name = `${prefix}p`
  const bound = `${prefix}q`
  const pairs = (it) => Object.entries(it).map(([key, value]) => ({ key, value }))
  const made = await ow.packages.create({ name, package: { parameters: pairs({ a: 1, b: 1, c: 1 }) } })
  assert.deepEqual([made.version, made.binding, made.publish], ['0.0.1', {}, false])
  await refused(ow.packages.create({ name }), 409, 'resource already exists')
  await ow.actions.create({ name: `${name}/echo`, action: 'function main(p) { return p }', params: { b: 2 } })
  const call = (action, params) => ow.actions.invoke({ name: action, blocking: true, result: true, params })
  assert.deepEqual(await call(`${name}/echo`, { c: 3 }), { a: 1, b: 2, c: 3 })

  await ow.packages.create({ name: bound, package: { binding: { namespace: '_', name }, parameters: pairs({ a: 5, d: 5 }) } })
  assert.deepEqual(await call(`${bound}/echo`, {}), { a: 5, b: 2, c: 1, d: 5 })
  const got = await ow.packages.get(bound)
  assert.deepEqual([got.binding.name, got.actions.map((it) => it.name)], [name, ['echo']])
  assert.equal(annotation(got, 'binding').name, name)
  const listed = (await ow.packages.list({ limit: 200 })).filter((it) => it.name.startsWith(prefix))
  assert.deepEqual(listed.map((it) => it.name).sort(), [name, bound])
  assert.deepEqual(listed.find((it) => it.name === name).binding, false)
  assert.equal((await ow.actions.list({ limit: 200 })).find((it) => it.namespace.endsWith(`/${name}`)).name, 'echo')

  assert.equal((await ow.packages.update({ name, package: { publish: true } })).version, '0.0.2')
  await refused(ow.packages.delete(name), 409, 'Package not empty (contains 1 entity). Set force param or delete package contents.')
  await refused(ow.packages.create({ name: `${prefix}r`, package: { binding: { namespace: '_', name: bound } } }), 400, 'Cannot bind to another package binding.')
  await refused(ow.packages.create({ name: `${prefix}r`, package: { binding: { namespace: '_', name: `${prefix}nothing` } } }), 400, 'Binding references a package that does not exist.')
  await refused(ow.actions.create({ name: `${bound}/new`, action: 'x' }), 400, 'Operation not permitted on package binding.')
  await ow.actions.delete(`${name}/echo`)
  await ow.packages.delete(bound)
  await ow.packages.delete(name)
  await refused(ow.packages.get(name), 404)
})
