// A command line like wsk: @adobe/aio-cli-plugin-runtime, each command a process of its own.
'use strict'
const { execFile } = require('node:child_process')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')
const { assert, auth, flow, host, modules, skip } = require('./client')

let plugin
try {
  plugin = path.dirname(modules.resolve('@adobe/aio-cli-plugin-runtime/package.json'))
} catch {
  skip('the npm module @adobe/aio-cli-plugin-runtime is not installed: run npm install in tests/clients')
}

const home = fs.mkdtempSync(path.join(os.tmpdir(), 'aio-'))
const main = `require(require.resolve('@oclif/core', { paths: [${JSON.stringify(plugin)}] })).run(process.argv.slice(1), ${JSON.stringify(plugin)})
  .then(() => {}, (error) => { console.error(error.message); process.exit(error.oclif?.exit ?? 1) })`

/** Runs a command; gives its exit code and what it wrote. */
const aio = (...words) => new Promise((resolve) => {
  const env = {
    PATH: process.env.PATH, HOME: home, XDG_CONFIG_HOME: home, WSK_CONFIG_FILE: path.join(home, 'wskprops'), NODE_NO_WARNINGS: '1', CI: '1',
    AIO_runtime_apihost: host, AIO_runtime_auth: auth, AIO_runtime_insecure: 'true'
  }
  execFile(process.execPath, ['-e', main, '--', ...words], { env, cwd: home, maxBuffer: 1 << 26 }, (error, stdout, stderr) => {
    resolve({ code: error ? error.code : 0, stdout, stderr })
  })
})
const ok = async (...words) => {
  const { code, stdout, stderr } = await aio(...words)
  assert.equal(code, 0, `aio ${words.join(' ')}: ${stdout}${stderr}`)
  return stdout
}
// Some commands put a line before the JSON.
const json = async (...words) => JSON.parse((await ok(...words)).replace(/^[^{[]*/, ''))

flow('aio', async ({ prefix }) => {
  const file = path.join(home, 'hello.js')
  fs.writeFileSync(file, 'function main({ name = "you" }) { console.log("hello"); return { greeting: `Hello ${name}`, mode: process.env.MODE } }')
  const name = `${prefix}hello`
  await ok('runtime:action:create', name, file, '--param', 'name', 'Ada', '--env', 'MODE', 'fast', '--memory', '128')
  assert.equal((await json('runtime:action:get', name)).limits.memory, 128)
  assert.match(await ok('runtime:action:get', name, '--url'), new RegExp(`/api/v1/namespaces/[^/]+/actions/${name}`))
  assert.match(await ok('runtime:action:get', name, '--code'), /function main/)
  assert.deepEqual(await json('runtime:action:invoke', name, '--result'), { greeting: 'Hello Ada', mode: 'fast' })
  const record = await json('runtime:action:invoke', name, '--blocking', '--param', 'name', 'Bob')
  assert.equal(record.response.result.greeting, 'Hello Bob')
  assert.equal((await json('runtime:activation:get', record.activationId)).activationId, record.activationId)
  assert.equal((await json('runtime:activation:result', record.activationId)).result.greeting, 'Hello Bob')
  // `activation:logs` asks a service of Adobe's first where logs are forwarded to.
  assert.match(await ok('runtime:activation:get', record.activationId, '--logs'), /hello/)
  assert.ok((await json('runtime:activation:list', '--json')).some((it) => it.activationId === record.activationId))
  assert.ok((await json('runtime:action:list', '--json')).some((it) => it.name === name))
  await ok('runtime:action:update', name, file, '--web', 'true')
  await ok('runtime:action:create', `${prefix}seq`, '--sequence', `/_/${name},/_/${name}`)
  assert.match((await json('runtime:action:invoke', `${prefix}seq`, '--result', '--param', 'x', '1')).greeting, /Hello/)
  await ok('runtime:package:create', `${prefix}p`, '--param', 'name', 'package')
  await ok('runtime:package:bind', `${prefix}p`, `${prefix}q`)
  await ok('runtime:action:create', `${prefix}p/hello`, file)
  assert.equal((await json('runtime:action:invoke', `${prefix}q/hello`, '--result')).greeting, 'Hello package')
  assert.ok((await json('runtime:package:list', '--json')).some((it) => it.name === `${prefix}p`))
  await ok('runtime:trigger:create', `${prefix}t`)
  await ok('runtime:rule:create', `${prefix}r`, `${prefix}t`, name)
  await ok('runtime:trigger:fire', `${prefix}t`, '--param', 'name', 'trigger')
  await ok('runtime:rule:disable', `${prefix}r`)
  assert.match(await ok('runtime:rule:status', `${prefix}r`), /inactive/)
  assert.equal((await json('runtime:rule:list', '--json')).find((it) => it.name === `${prefix}r`).status, 'inactive')
  await json('runtime:namespace:list', '--json')
  await ok('runtime:namespace:get')

  const missing = await aio('runtime:action:get', `${prefix}nothing`)
  assert.notEqual(missing.code, 0)
  assert.match(missing.stdout + missing.stderr, /the requested resource does not exist\. \(404 Not Found\)/)
  for (const words of [['rule', `${prefix}r`], ['trigger', `${prefix}t`], ['action', `${prefix}p/hello`], ['package', `${prefix}q`], ['package', `${prefix}p`], ['action', name]]) {
    await ok(`runtime:${words[0]}:delete`, words[1])
  }
}).finally(() => fs.rmSync(home, { recursive: true, force: true }))
