// Calls: waited for or not, results and failures, environment, parameters.
'use strict'
const { assert, annotation, flow, record, refused, request } = require('./client')

flow('invoking', async ({ ow, prefix }) => {
  const make = (name, action, more = {}) => ow.actions.update({ name: prefix + name, action, ...more })
  const call = (name, params = {}) => ow.actions.invoke({ name: prefix + name, blocking: true, result: true, params })
  const whole = (name, params = {}) => ow.actions.invoke({ name: prefix + name, blocking: true, params })

  await make('echo', 'function main(p) { return p }', { params: { a: 1, b: 1 } })
  assert.deepEqual(await call('echo', { b: 2, unicode: 'äöü€𝄞\u0000' }), { a: 1, b: 2, unicode: 'äöü€𝄞\u0000' })
  const activation = await whole('echo', {})
  assert.match(activation.activationId, /^[0-9a-f]{32}$/)
  assert.deepEqual([activation.response.status, activation.response.success], ['success', true])
  assert.deepEqual(activation.response.result, { a: 1, b: 1 })
  assert.equal(activation.end - activation.start, activation.duration)
  for (const key of ['path', 'kind', 'limits', 'waitTime', 'timeout']) assert.notEqual(annotation(activation, key), undefined, key)
  assert.equal(annotation(activation, 'path'), `${activation.namespace}/${prefix}echo`)

  const started = await ow.actions.invoke({ name: `${prefix}echo`, params: { c: 3 } })
  assert.deepEqual(Object.keys(started), ['activationId'])
  assert.deepEqual((await record(ow, started.activationId)).response.result, { a: 1, b: 1, c: 3 })

  // What an action may give.
  await make('nothing', 'function main() {}')
  assert.deepEqual(await call('nothing'), {})
  await make('promise', 'function main(p) { return new Promise((resolve) => setTimeout(() => resolve({ later: p.x }), 5)) }')
  assert.deepEqual(await call('promise', { x: 1 }), { later: 1 })
  await make('number', 'function main() { return 5 }')
  const notDictionary = await refused(whole('number'), 502)
  assert.equal(notDictionary.error.response.status, 'action developer error')
  assert.equal(notDictionary.error.response.result.error, 'The action did not return a dictionary.')

  // Errors: given as a result, rejected, thrown.
  await make('error', 'function main() { return { error: { code: 7 } } }')
  const given = await refused(whole('error'), 502)
  assert.deepEqual([given.error.response.status, given.error.response.result], ['application error', { error: { code: 7 } }])
  await make('reject', 'function main() { return Promise.reject({ why: "no" }) }')
  const rejected = await refused(whole('reject'), 502)
  assert.deepEqual([rejected.error.response.status, rejected.error.response.result], ['application error', { error: { why: 'no' } }])
  await make('async', 'async function main() { throw new TypeError("boom") }')
  const async = await refused(whole('async'), 502)
  assert.equal(async.error.response.status, 'application error')
  assert.deepEqual([async.error.response.result.error.name, async.error.response.result.error.message], ['TypeError', 'boom'])
  await make('bare', 'function main() { return Promise.reject() }')
  assert.deepEqual((await refused(whole('bare'), 502)).error.response.result, { error: {} })
  await make('throw', 'function main() { throw new Error("boom") }')
  const thrown = await refused(whole('throw'), 502)
  assert.equal(thrown.error.response.status, 'action developer error')
  assert.match(thrown.error.response.result.error, /^An error has occurred: Error: boom/)
  await make('syntax', 'function main( {')
  const syntax = await refused(whole('syntax'), 502)
  assert.equal(syntax.error.response.status, 'action developer error')
  assert.match(syntax.error.response.result.error, /^Initialization has failed due to: /)
  await make('nomain', 'function other() {}')
  assert.match((await refused(whole('nomain'), 502)).error.response.result.error, /^Initialization has failed due to: .*'main' is not a function/)

  await make('slow', 'function main() { return new Promise((resolve) => setTimeout(() => resolve({ slept: true }), 5000)) }', { limits: { timeout: 200 } })
  const late = await refused(whole('slow'), 502)
  assert.match(late.error.response.result.error, /^The action exceeded its time limits of 200 milliseconds/)
  assert.equal(annotation(late.error, 'timeout'), true)

  // A wait that is too short, and a caller that goes away.
  await make('second', 'function main() { return new Promise((resolve) => setTimeout(() => resolve({ done: true }), 500)) }')
  const target = `/api/v1/namespaces/_/actions/${prefix}second?blocking=true&timeout=50`
  const waited = await request('POST', target, { signed: true, headers: { 'content-type': 'application/json' }, body: '{}' })
  assert.equal(waited.status, 202)
  assert.equal(waited.headers['x-openwhisk-activation-id'], waited.json().activationId)
  assert.deepEqual((await record(ow, waited.json().activationId)).response.result, { done: true })

  // The environment.
  await make('env', `function main() {
    const seen = {}
    for (const key of Object.keys(process.env)) if (key.startsWith('__OW_') || key === 'MODE') seen[key] = process.env[key]
    return seen
  }`)
  await ow.actions.update({ name: `${prefix}env`, action: { parameters: [{ key: 'MODE', value: 'fast', init: true }] } })
  const env = await whole('env')
  const seen = env.response.result
  assert.equal(seen.__OW_ACTION_NAME, `/${env.namespace}/${prefix}env`)
  assert.equal(seen.__OW_ACTION_VERSION, '0.0.2')
  assert.equal(seen.__OW_NAMESPACE, env.namespace)
  assert.equal(seen.__OW_ACTIVATION_ID, env.activationId)
  assert.ok(Number(seen.__OW_DEADLINE) > Date.now() - 3600000)
  assert.equal(typeof seen.__OW_API_HOST, 'string')
  assert.deepEqual([seen.__OW_API_KEY, seen.MODE], [undefined, 'fast'])

  // Nothing of a call is there for the next one.
  await make('counter', 'let count = 0\nfunction main() { globalThis.left = (globalThis.left || 0) + 1; return { count: ++count, left: globalThis.left } }')
  for (let n = 0; n < 2; n++) assert.deepEqual(await call('counter'), { count: 1, left: 1 })

  await make('many', 'function main(p) { return { n: p.n } }')
  const all = await Promise.all(Array.from({ length: 20 }, (_, n) => call('many', { n })))
  assert.deepEqual(all.map((it) => it.n), Array.from({ length: 20 }, (_, n) => n))

  // 500 kB there and back.
  const large = 'x'.repeat(500000)
  assert.equal((await call('echo', { large })).large.length, large.length)
  await make('huge', 'function main() { return { huge: "x".repeat(1100000) } }')
  assert.match((await refused(whole('huge'), 502)).error.response.result.error, /exceeded the allowed length/)
})
