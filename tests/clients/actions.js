// Create, update, get, list, delete.
'use strict'
const { assert, annotation, flow, refused, zip } = require('./client')

flow('actions', async ({ ow, prefix }) => {
  const name = `${prefix}hello`
  const action = 'function main({ name }) { return { greeting: `Hello ${name}` } }'
  const made = await ow.actions.create({ name, action, params: { name: 'you' }, annotations: { note: 1 }, limits: { memory: 256, timeout: 5000 } })
  assert.equal(made.name, name)
  assert.equal(made.version, '0.0.1')
  assert.equal(made.publish, false)
  assert.match(made.exec.kind, /^nodejs:\d+$/)
  assert.equal(made.exec.code, action)
  assert.equal(made.exec.binary, false)
  assert.deepEqual(made.parameters, [{ key: 'name', value: 'you' }])
  assert.deepEqual(made.limits, { timeout: 5000, memory: 256, logs: 10, concurrency: 1 })
  assert.equal(annotation(made, 'note'), 1)
  assert.equal(annotation(made, 'exec'), made.exec.kind)
  await refused(ow.actions.create({ name, action }), 409, 'resource already exists')

  const updated = await ow.actions.update({ name, action: 'function main() { return { v: 2 } }' })
  assert.equal(updated.version, '0.0.2')
  assert.deepEqual(updated.parameters, made.parameters, 'what is not said stays')
  assert.deepEqual(await ow.actions.invoke({ name, blocking: true, result: true }), { v: 2 })
  assert.equal((await ow.actions.update({ name, action, version: '2.0.0' })).version, '2.0.0')

  const got = await ow.actions.get(name)
  assert.equal(got.exec.code, action)
  assert.equal((await ow.actions.get({ name, code: false })).exec.code, undefined)
  assert.deepEqual(await ow.actions.get(`/_/${name}`), got)

  const listed = await ow.actions.list({ limit: 200 })
  const mine = listed.find((it) => it.name === name)
  assert.deepEqual([mine.version, mine.exec.binary, mine.exec.code], ['2.0.0', false, undefined])
  assert.equal((await ow.actions.list({ limit: 1 })).length, 1)
  assert.ok((await ow.actions.list({ count: true })).actions >= 1)

  // Another entry point, and exports.
  await ow.actions.create({ name: `${prefix}other`, action: { exec: { kind: 'nodejs:20', code: 'exports.run = () => ({ other: true })', main: 'run' } } })
  assert.deepEqual(await ow.actions.invoke({ name: `${prefix}other`, blocking: true, result: true }), { other: true })
  // What is at the top with const or as an arrow.
  await ow.actions.create({ name: `${prefix}arrow`, action: 'const main = async (p) => ({ sum: p.a + p.b })' })
  assert.deepEqual(await ow.actions.invoke({ name: `${prefix}arrow`, blocking: true, result: true, params: { a: 1, b: 2 } }), { sum: 3 })

  // An archive of modules: relative ones, a folder with index.js, JSON, a package in node_modules, a circle.
  const files = {
    'package.json': JSON.stringify({ name: 'x', main: 'src/start.js' }),
    'src/start.js': `#!/usr/bin/env node
const { add } = require('./math'); const data = require('../data.json'); const dep = require('dep'); const a = require('./a')
exports.main = (p) => ({ sum: add(p.a, p.b), data: data.value, dep: dep(), a: a.name, b: a.b().name, file: __filename })
exports.sub = { deep: () => ({ deep: true }) }`,
    'src/math/index.js': '"use strict"\nmodule.exports = { add: (a, b) => a + b }',
    'src/a.js': 'exports.name = "a"; const b = require("./b"); exports.b = () => b',
    'src/b.js': 'const a = require("./a"); exports.name = "b of " + a.name',
    'data.json': '{ "value": [1, "\\u2028"] }',
    'node_modules/dep/package.json': '{ "main": "lib/main" }',
    'node_modules/dep/lib/main.js': 'module.exports = () => require("path").join("x", "y")',
    'README.md': 'no code'
  }
  const archive = await ow.actions.create({ name: `${prefix}zip`, kind: 'nodejs:default', action: zip(files) })
  assert.equal(archive.exec.binary, true)
  assert.deepEqual(
    await ow.actions.invoke({ name: `${prefix}zip`, blocking: true, result: true, params: { a: 2, b: 3 } }),
    { sum: 5, data: [1, '\u2028'], dep: 'x/y', a: 'a', b: 'b of a', file: '/src/start.js' }
  )
  await ow.actions.update({ name: `${prefix}zip`, action: { exec: { kind: 'nodejs:20', code: zip(files).toString('base64'), main: 'sub.deep' } } })
  assert.deepEqual(await ow.actions.invoke({ name: `${prefix}zip`, blocking: true, result: true }), { deep: true })
  await ow.actions.create({ name: `${prefix}empty`, kind: 'nodejs:20', action: zip({ 'nothing.txt': '' }) })
  const failed = await refused(ow.actions.invoke({ name: `${prefix}empty`, blocking: true }), 502)
  assert.match(failed.error.response.result.error, /Zipped actions must contain either package.json or index.js at the root/)

  const gone = await ow.actions.delete(name)
  assert.equal(gone.name, name)
  await refused(ow.actions.get(name), 404, 'The requested resource does not exist.')
  await refused(ow.actions.delete(name), 404)
  await refused(ow.actions.invoke(name), 404)
})
