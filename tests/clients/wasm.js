// WebAssembly actions: a module that writes what it reads, to its result and to its log.
'use strict'
const { assert, annotation, flow, refused, skip, zip } = require('./client')

// (module
//   (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
//   (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
//   (memory (export "memory") 2)
//   (func (export "_start")
//     (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 65000))
//     (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
//     (i32.store (i32.const 4) (i32.load (i32.const 8)))
//     (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
//     (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))))
const ECHO = Buffer.from('AGFzbQEAAAABDAJgBH9/f38Bf2AAAAJEAhZ3YXNpX3NuYXBzaG90X3ByZXZpZXcxB2ZkX3JlYWQAABZ3YXNpX3NuYXBzaG90X3ByZXZpZXcxCGZkX3dyaXRlAAADAgEBBQMBAAIHEwIGbWVtb3J5AgAGX3N0YXJ0AAIKQAE+AEEAQcAANgIAQQRB6PsDNgIAQQBBAEEBQQgQABpBBEEIKAIANgIAQQFBAEEBQQgQARpBAkEAQQFBCBABGgs=', 'base64')

if (process.env.OW_WASM !== '1') skip('the gateway runs no WebAssembly: OW_WASM=1 says that it does')

flow('wasm', async ({ ow, prefix }) => {
  const name = `${prefix}echo`
  const made = await ow.actions.create({ name, kind: 'wasm:default', action: ECHO, params: { a: 1 } })
  assert.deepEqual([made.exec.kind, made.exec.binary], ['wasm:wasip1', true])
  const done = await ow.actions.invoke({ name, blocking: true, params: { b: 2 } })
  assert.deepEqual([done.response.result, annotation(done, 'kind')], [{ a: 1, b: 2 }, 'wasm:wasip1'])
  assert.match(done.logs[0], / stderr: {"a":1,"b":2}$/)
  const failed = await refused(ow.actions.invoke({ name, blocking: true, params: { error: 'no' } }), 502)
  assert.deepEqual([failed.error.response.status, failed.error.response.result], ['application error', { error: 'no' }])
  await ow.actions.create({ name: `${prefix}zip`, kind: 'wasm:default', action: zip({ 'main.wasm': ECHO }) })
  assert.deepEqual(await ow.actions.invoke({ name: `${prefix}zip`, blocking: true, result: true, params: { c: 3 } }), { c: 3 })
  await ow.actions.create({ name: `${prefix}bad`, kind: 'wasm:default', action: Buffer.from('no module') })
  assert.match((await refused(ow.actions.invoke({ name: `${prefix}bad`, blocking: true }), 502)).error.response.result.error, /^Initialization has failed due to: /)

  // From JavaScript to WebAssembly and back.
  await ow.actions.create({ name: `${prefix}js`, action: 'function main({ n = 0 }) { return { n: n + 1 } }' })
  await ow.actions.create({ name: `${prefix}s`, sequence: ['js', 'zip', 'js'].map((it) => `/_/${prefix}${it}`) })
  assert.deepEqual(await ow.actions.invoke({ name: `${prefix}s`, blocking: true, result: true }), { n: 2 })
})
