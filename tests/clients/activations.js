// Records: lists, filters, logs, results.
'use strict'
const { assert, flow, record, refused, request } = require('./client')

flow('activations', async ({ ow, prefix }) => {
  const name = `${prefix}log`
  await ow.actions.create({ name, action: 'function main(p) { console.log("out %d", p.n); console.error("err\\ntwo"); console.log({ a: 1 }); return { n: p.n } }' })
  await ow.packages.create({ name: `${prefix}p`, package: {} })
  await ow.actions.create({ name: `${prefix}p/log`, action: 'function main() { return {} }' })
  const calls = []
  for (let n = 0; n < 3; n++) calls.push(await ow.actions.invoke({ name, blocking: true, params: { n } }))
  await ow.actions.invoke({ name: `${prefix}p/log`, blocking: true })

  const id = calls[1].activationId
  assert.deepEqual((await ow.activations.get(id)).response.result, { n: 1 })
  assert.deepEqual(await ow.activations.result(id), { ...calls[1].response })
  const { logs } = await ow.activations.logs(id)
  const lines = logs.map((line) => /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z) +(stdout|stderr): (.*)$/.exec(line).slice(2))
  assert.deepEqual(lines, [['stdout', 'out 1'], ['stderr', 'err'], ['stderr', 'two'], ['stdout', '{ a: 1 }']])

  const listed = await ow.activations.list({ name, limit: 10 })
  assert.deepEqual(listed.map((it) => it.activationId), calls.map((it) => it.activationId).reverse(), 'the latest first')
  assert.deepEqual([listed[0].response, listed[0].logs, listed[0].statusCode, listed[0].name], [undefined, undefined, 0, name])
  const docs = await ow.activations.list({ name, docs: true, limit: 2 })
  assert.deepEqual(docs.map((it) => it.response.result.n), [2, 1])
  assert.equal((await ow.activations.list({ name, skip: 1 })).length, 2)
  assert.equal((await ow.activations.list({ name: `${prefix}p/log` })).length, 1)
  const since = calls[1].start
  assert.ok((await ow.activations.list({ name, since })).every((it) => it.start >= since))
  assert.ok((await ow.activations.list({ name, upto: since })).every((it) => it.start <= since))
  const count = await request('GET', `/api/v1/namespaces/_/activations?count=true&name=${name}`, { signed: true })
  assert.deepEqual(count.json(), { activations: 3 })

  await refused(ow.activations.get('a'.repeat(32)), 404, 'The requested resource does not exist.')
  await refused(ow.activations.get('abc'), 400, 'Activation id length is 3 but must be 32.')
  await refused(ow.activations.list({ limit: 201 }), 400, /is not in the range of 0 to 200 for activations/)
  await refused(ow.activations.list({ count: true, docs: true }), 400)

  // More than the log takes.
  await ow.actions.create({ name: `${prefix}chatty`, action: 'function main() { for (let n = 0; n < 17; n++) console.log("x".repeat(63 * 1024)); return { done: true } }', limits: { logs: 1 } })
  const chatty = await ow.actions.invoke({ name: `${prefix}chatty`, blocking: true })
  assert.equal(chatty.response.status, 'success')
  assert.match((await record(ow, chatty.activationId)).logs.at(-1), /Logs were truncated because the total bytes size exceeds the limit of 1048576 bytes/)
})
