// What is refused, and how it is said.
'use strict'
const { assert, auth, flow, host, refused, request } = require('./client')

flow('errors', async ({ ow, prefix, openwhisk }) => {
  const name = `${prefix}a`
  const action = 'function main() { return {} }'
  const [namespace] = await ow.namespaces.list()
  const stranger = openwhisk({ apihost: host, api_key: `${auth.split(':')[0]}:${'x'.repeat(64)}`, ignore_certs: true })
  await refused(stranger.actions.list(), 401)
  assert.equal((await request('GET', '/api/v1/namespaces/_/actions')).status, 401)
  await refused(ow.actions.list({ namespace: 'somebody-else' }), 403, "The supplied authentication is not authorized to access 'somebody-else'.")
  await refused(ow.actions.get('/somebody-else/x'), 403)
  await refused(ow.actions.get('/somebody-else/p/x'), 403)

  await refused(ow.actions.create({ name, action, kind: 'cobol:74' }), 400, /The specified runtime 'cobol:74' is not supported by this platform/)
  await refused(ow.actions.create({ name: 'a$b', action }), 400, 'The name of the entity contains illegal characters.')
  await refused(ow.actions.create({ name, action, limits: { timeout: 1 } }), 400, 'duration 1 milliseconds below allowed threshold of 100 milliseconds')
  await refused(ow.actions.create({ name, action, limits: { memory: 1 } }), 400, 'memory size 1 MB below allowed threshold of 128 MB')
  await refused(ow.actions.create({ name, action: { exec: { kind: 'nodejs:20' } } }), 400, /'code' must be a string/)
  await refused(ow.actions.create({ name, action: {} }), 400, 'exec undefined')
  await refused(ow.actions.create({ name, action: { exec: { kind: 'nodejs:20', code: action }, parameters: [{ key: 'a', value: 'x'.repeat(1100000) }] } }), 413, /parameters larger than allowed: \d+ > 1048576 bytes/)
  await refused(ow.packages.create({ name: 'default' }), 400, "Package name 'default' is reserved.")

  await ow.actions.create({ name, action: { exec: { kind: 'nodejs:20', code: action }, parameters: [{ key: 'fixed', value: 1 }], annotations: [{ key: 'final', value: true }] } })
  await refused(ow.actions.invoke({ name, params: { fixed: 2 } }), 400, 'Request defines parameters that are not allowed (e.g., reserved properties).')
  await refused(ow.actions.invoke({ name, params: { large: 'x'.repeat(1048576) } }), 413, /larger than allowed/)
  await refused(ow.triggers.get(name), 409, 'Resource by this name exists but is not in this collection.')
  const raw = (method, target, options) => request(method, `/api/v1/namespaces/_/${target}`, { signed: true, ...options })
  const post = (body, type = 'application/json') => raw('POST', `actions/${name}`, { headers: { 'content-type': type }, body })
  for (const [answer, status] of [
    [await post('{'), 400], [await post('[1]'), 400], [await post('{"a":'.repeat(1000) + '1' + '}'.repeat(1000)), 400],
    [await post('a=1', 'application/x-www-form-urlencoded'), 415],
    [await raw('POST', `actions/${name}?blocking=perhaps`, { body: '{}' }), 400],
    [await raw('POST', `actions/${name}?timeout=60001`, { body: '{}' }), 400],
    [await raw('GET', 'actions?limit=201'), 400], [await raw('GET', 'actions?skip=-1'), 400], [await raw('GET', 'actions/%ff'), 400],
    [await raw('PATCH', `actions/${name}`), 405], [await raw('POST', 'packages/x', { body: '{}' }), 405], [await raw('GET', 'nothing'), 404]
  ]) {
    assert.equal(answer.status, status, answer.text)
    const { error, code } = answer.json()
    assert.ok(error.length > 0 && code === answer.headers['x-request-id'], answer.text)
  }
  assert.equal((await raw('GET', 'limits')).json().minActionMemory, 128)
  const info = (await request('GET', '/api/v1')).json()
  assert.deepEqual([info.api_version_path, info.limits.sequence_length], ['v1', 50])
  assert.deepEqual((await raw('GET', '../../namespaces')).json(), [namespace])
  const given = await raw('GET', 'actions', { headers: { 'x-request-id': 'my-id' } })
  assert.equal(given.headers['x-request-id'], 'my-id')
})
