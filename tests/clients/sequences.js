// Sequences.
'use strict'
const { assert, annotation, flow, refused } = require('./client')

flow('sequences', async ({ ow, prefix }) => {
  const add = `${prefix}add`
  const name = `${prefix}s`
  const components = (...names) => names.map((it) => `/_/${prefix}${it}`)
  await ow.actions.create({ name: add, action: 'function main({ n }) { return { n: n + 1 } }' })
  await ow.actions.create({ name: `${prefix}double`, action: 'function main({ n }) { return { n: n * 2 } }' })
  await ow.actions.create({ name: `${prefix}bad`, action: 'function main() { return { error: "enough" } }' })
  const made = await ow.actions.create({ name, sequence: components('add', 'double', 'add') })
  assert.equal(made.exec.kind, 'sequence')
  assert.equal(made.exec.components.length, 3)

  const done = await ow.actions.invoke({ name, blocking: true, params: { n: 1 } })
  assert.deepEqual(done.response.result, { n: 5 })
  assert.deepEqual([annotation(done, 'kind'), annotation(done, 'topmost')], ['sequence', true])
  assert.equal(done.logs.length, 3)
  for (const id of done.logs) {
    const component = await ow.activations.get(id)
    assert.equal(component.cause, done.activationId)
    assert.equal(annotation(component, 'causedBy'), 'sequence')
  }

  await ow.actions.update({ name, sequence: components('add', 'bad', 'double') })
  const failed = await refused(ow.actions.invoke({ name, blocking: true, params: { n: 1 } }), 502)
  assert.deepEqual([failed.error.response.result, failed.error.logs.length], [{ error: 'enough' }, 2])

  await ow.actions.create({ name: `${prefix}outer`, sequence: components('inner', 'double').map((it) => it.replace('inner', 'add')) })
  await ow.actions.update({ name, sequence: components('outer', 'add') })
  assert.deepEqual(await ow.actions.invoke({ name, blocking: true, result: true, params: { n: 3 } }), { n: 9 })
  await refused(ow.actions.update({ name: `${prefix}outer`, sequence: components('s') }), 400, 'Sequence may not refer to itself.')
  await refused(ow.actions.update({ name, sequence: components('nowhere') }), 400, 'Sequence component does not exist.')
  await refused(ow.actions.update({ name, sequence: Array(51).fill(`/_/${add}`) }), 400, 'Too many actions in the sequence.')

  // Arrays, from one to the next.
  await ow.actions.create({ name: `${prefix}list`, action: 'function main({ n }) { return [n, n + 1] }' })
  await ow.actions.create({ name: `${prefix}total`, action: 'function main(list) { return { total: list.reduce((a, b) => a + b), isList: Array.isArray(list) } }' })
  await ow.actions.update({ name, sequence: components('list', 'total') })
  assert.deepEqual(await ow.actions.invoke({ name, blocking: true, result: true, params: { n: 4 } }), { total: 9, isList: true })
})
