// Web actions, by plain HTTP without credentials.
'use strict'
const { assert, flow, request } = require('./client')

flow('web', async ({ ow, prefix }) => {
  const [namespace] = await ow.namespaces.list()
  const export_ = (name, action, annotations = {}) => ow.actions.update({ name: prefix + name, action, annotations: { 'web-export': true, ...annotations } })
  const at = (name, rest = '') => `/api/v1/web/${namespace}/default/${prefix}${name}${rest}`
  const get = (name, rest, options) => request('GET', at(name, rest), options)
  const refused = (answer, status) => {
    assert.equal(answer.status, status, answer.text)
    assert.equal(typeof answer.json().error, 'string')
  }

  await export_('echo', 'function main(p) { return p }')
  const seen = (await request('POST', at('echo', '.json/some/path?q=1'), { headers: { 'content-type': 'application/json', 'x-mine': 'yes' }, body: '{"n":5}' })).json()
  assert.deepEqual([seen.__ow_method, seen.__ow_path, seen.__ow_headers['x-mine'], seen.q, seen.n], ['post', '/some/path', 'yes', '1', 5])
  assert.equal(seen.__ow_user, undefined)
  const form = (await request('POST', at('echo', '.json'), { headers: { 'content-type': 'application/x-www-form-urlencoded' }, body: 'a=b+c&d=%C3%A4' })).json()
  assert.deepEqual([form.a, form.d], ['b c', 'ä'])
  refused(await get('echo', '.json?__ow_body=x'), 400)

  await export_('page', 'function main() { return { html: "<h1>hi</h1>" } }')
  const page = await get('page', '.html')
  assert.deepEqual([page.status, page.text, page.headers['content-type'].split(';')[0]], [200, '<h1>hi</h1>', 'text/html'])
  assert.match(page.headers['x-openwhisk-activation-id'], /^[0-9a-f]{32}$/)
  refused(await get('page', '.svg'), 400)
  refused(await get('page', '.text'), 404)

  await export_('http', `function main({ __ow_method }) {
    return { statusCode: 201, headers: { 'content-type': 'application/json', 'x-two': ['a', 'b'] }, body: { method: __ow_method } }
  }`)
  const http = await request('DELETE', at('http'))
  assert.deepEqual([http.status, http.json(), http.headers['x-two']], [201, { method: 'delete' }, 'a, b'])
  await export_('image', 'function main() { return { headers: { "content-type": "image/png" }, body: Buffer.from([1, 2, 255]).toString("base64") } }')
  assert.deepEqual([...(await get('image')).bytes], [1, 2, 255])
  await export_('redirect', 'function main() { return { statusCode: 302, headers: { location: "/elsewhere" } } }')
  const redirect = await get('redirect')
  assert.deepEqual([redirect.status, redirect.headers.location], [302, '/elsewhere'])
  await export_('none', 'function main() { return {} }')
  assert.equal((await get('none')).status, 204)

  await export_('error', 'function main() { return { error: { statusCode: 404, body: "not here" } } }')
  const error = await get('error')
  assert.deepEqual([error.status, error.text], [404, 'not here'])
  await export_('throw', 'function main() { throw new Error("secret reason") }')
  const thrown = await get('throw')
  refused(thrown, 400)
  assert.ok(!thrown.text.includes('secret'))

  await export_('raw', 'function main(p) { return p }', { 'raw-http': true })
  const raw = (await request('POST', at('raw', '.json?a=1&b=2'), { headers: { 'content-type': 'text/plain' }, body: 'as it is' })).json()
  assert.deepEqual([raw.__ow_query, raw.__ow_body, raw.a], ['a=1&b=2', 'as it is', undefined])

  await export_('locked', 'function main() { return { body: "in" } }', { 'require-whisk-auth': 'key' })
  refused(await get('locked'), 401)
  refused(await get('locked', '', { headers: { 'x-require-whisk-auth': 'guess' } }), 401)
  assert.equal((await get('locked', '', { headers: { 'x-require-whisk-auth': 'key' } })).text, 'in')
  await export_('signed', 'function main({ __ow_user }) { return { body: __ow_user } }', { 'require-whisk-auth': true })
  refused(await get('signed'), 401)
  assert.equal((await get('signed', '', { signed: true })).text, namespace)

  const options = await request('OPTIONS', at('echo'), { headers: { 'access-control-request-headers': 'x-mine' } })
  assert.deepEqual([options.status, options.headers['access-control-allow-origin'], options.headers['access-control-allow-headers']], [200, '*', 'x-mine'])
  assert.equal(page.headers['access-control-allow-origin'], '*')

  await ow.packages.create({ name: `${prefix}p`, package: {} })
  await ow.actions.create({ name: `${prefix}p/f`, action: 'function main() { return { body: "packed" } }', annotations: { 'web-export': true } })
  assert.equal((await request('GET', `/api/v1/web/${namespace}/${prefix}p/f`)).text, 'packed')

  // What is not exported is not there, not even for its owner.
  await ow.actions.create({ name: `${prefix}private`, action: 'function main() { return {} }' })
  refused(await get('private'), 404)
  refused(await get('private', '', { signed: true }), 404)
  refused(await get('nothing'), 404)
  refused(await request('GET', '/api/v1/web/nobody/default/x'), 404)
})
