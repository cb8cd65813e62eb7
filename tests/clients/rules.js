// Triggers and rules.
'use strict'
const { assert, eventually, flow, record, refused, request } = require('./client')

flow('rules', async ({ ow, prefix }) => {
  const trigger = `${prefix}t`
  const name = `${prefix}r`
  const action = `${prefix}f`
  await ow.actions.create({ name: action, action: 'function main(p) { return p }' })
  const made = await ow.triggers.create({ name: trigger, trigger: { parameters: [{ key: 'a', value: 1 }] } })
  assert.deepEqual([made.version, made.limits], ['0.0.1', {}])
  const fire = (body) => request('POST', `/api/v1/namespaces/_/triggers/${trigger}`, { signed: true, headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) })
  assert.equal((await fire({})).status, 204, 'no rule: nothing to do')

  const rule = await ow.rules.create({ name, trigger, action })
  assert.deepEqual([rule.status, rule.trigger.name, rule.action.name], ['active', trigger, action])
  const { activationId } = await ow.triggers.invoke({ name: trigger, params: { b: 2 } })
  const fired = await record(ow, activationId)
  assert.deepEqual(fired.response.result, { b: 2 })
  const started = JSON.parse(fired.logs[0])
  assert.deepEqual([started.success, started.statusCode], [true, 0])
  assert.deepEqual((await record(ow, started.activationId)).response.result, { a: 1, b: 2 })

  await ow.rules.disable({ name })
  assert.equal((await ow.rules.get(name)).status, 'inactive')
  assert.equal((await fire({})).status, 204)
  await ow.rules.enable({ name })
  assert.equal((await ow.rules.get(name)).status, 'active')
  assert.equal(Object.values((await ow.triggers.get(trigger)).rules)[0].status, 'active')
  const updated = await ow.rules.update({ name, trigger, action })
  assert.deepEqual([updated.version, updated.status], ['0.0.2', 'active'])
  assert.ok((await ow.rules.list({ limit: 200 })).some((it) => it.name === name))
  assert.ok((await ow.triggers.list({ limit: 200 })).some((it) => it.name === trigger))

  await refused(ow.rules.create({ name: `${prefix}x`, trigger: `${prefix}nothing`, action }), 400, /trigger .* does not exist/)
  await refused(ow.rules.create({ name: `${prefix}x`, trigger, action: `${prefix}nothing` }), 400, /action .* does not exist/)
  // An action that is gone is noted in the trigger's record.
  await ow.actions.delete(action)
  const missed = await record(ow, (await ow.triggers.invoke({ name: trigger })).activationId)
  assert.equal(JSON.parse(missed.logs[0]).success, false)
  await ow.triggers.delete(trigger)
  assert.equal((await ow.rules.get(name)).status, 'inactive')
  await ow.rules.delete(name)
  await eventually(async () => !(await ow.rules.list({ limit: 200 })).some((it) => it.name === name), 'the rule to go')
})
