// What the scripts have in common: a client, checks, names that nobody else uses, and cleaning up.
'use strict'

const assert = require('node:assert/strict')
const https = require('node:https')
const http = require('node:http')
const path = require('node:path')
const { createRequire } = require('node:module')

const host = process.env.OW_APIHOST
const auth = process.env.OW_AUTH
const modules = createRequire(path.resolve(process.env.OW_MODULES || __dirname, 'package.json'))

/** Says why a script did not run. `cargo xtask test` counts such lines. */
const skip = (reason) => {
  console.log(`SKIPPED: ${reason}`)
  process.exit(0)
}

/** A client's module, if it is installed. */
const load = (name) => {
  try {
    return modules(name)
  } catch (error) {
    if (error.code !== 'MODULE_NOT_FOUND') throw error
    return skip(`the npm module ${name} is not installed: run npm install in tests/clients`)
  }
}

/** Runs a flow. Its names begin with a prefix of its own; what it made is deleted at the end, however it ends. */
const flow = async (name, body) => {
  if (!host || !auth) {
    console.error('set OW_APIHOST and OW_AUTH')
    process.exit(2)
  }
  const openwhisk = load('openwhisk')
  const ow = openwhisk({ apihost: host, api_key: auth, ignore_certs: true })
  const prefix = `t${process.pid}-${name}-`
  const began = Date.now()
  let failed
  try {
    await body({ ow, prefix, openwhisk })
  } catch (error) {
    failed = error
  }
  for (const [kind, options] of [['rules', {}], ['triggers', {}], ['actions', {}], ['packages', { force: true }]]) {
    for (const it of await ow[kind].list({ limit: 200 }).catch(() => [])) {
      const packed = it.namespace.split('/')[1]
      if (!(packed || it.name).startsWith(prefix)) continue
      await ow[kind].delete({ name: packed ? `${packed}/${it.name}` : it.name, ...options, qs: options }).catch(() => {})
    }
  }
  if (failed) {
    console.error(`${name}: FAILED\n${failed.stack}${failed.error ? '\n' + JSON.stringify(failed.error) : ''}`)
    process.exitCode = 1
    return
  }
  console.log(`${name}: ok, ${Date.now() - began} ms`)
}

/** A promise that must be refused with this status; gives the error. */
const refused = async (promise, status, sentence) => {
  const error = await promise.then((value) => assert.fail(`not refused: ${JSON.stringify(value)}`), (error) => error)
  assert.equal(error.statusCode, status, error.message)
  if (sentence instanceof RegExp) assert.match(error.error.error, sentence)
  else if (sentence !== undefined) assert.equal(error.error.error, sentence)
  if (error.error.code !== undefined) assert.match(error.error.code, /^[A-Za-z0-9_-]{1,64}$/)
  return error
}

/** Tries again until something is there. */
const eventually = async (attempt, what) => {
  const end = Date.now() + 60000
  for (;;) {
    const value = await attempt()
    if (value) return value
    if (Date.now() > end) assert.fail(`waited in vain for ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

/** The record of an activation, as soon as it is there. */
const record = (ow, id) => eventually(
  () => ow.activations.get(id).catch((error) => { if (error.statusCode !== 404) throw error }),
  `activation ${id}`
)

/** A plain request: method, path below the host, headers, body. */
const request = (method, target, { headers = {}, body, signed = false } = {}) => new Promise((resolve, reject) => {
  const url = new URL(target, host)
  const credentials = signed ? { authorization: `Basic ${Buffer.from(auth).toString('base64')}` } : {}
  const sent = (url.protocol === 'https:' ? https : http).request(url, {
    method, headers: { ...credentials, ...headers }, rejectUnauthorized: false
  }, (answer) => {
    const parts = []
    answer.on('data', (part) => parts.push(part))
    answer.on('error', reject)
    answer.on('end', () => {
      const bytes = Buffer.concat(parts)
      resolve({ status: answer.statusCode, headers: answer.headers, bytes, text: bytes.toString(), json: () => JSON.parse(bytes.toString()) })
    })
  })
  sent.on('error', reject)
  sent.end(body)
})

/** The value of an annotation. */
const annotation = (entity, key) => entity.annotations.find((it) => it.key === key)?.value

/** A zip archive of these files, stored or deflated. */
const zip = (files) => {
  const zlib = require('node:zlib')
  const table = Array.from({ length: 256 }, (_, n) => {
    for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1
    return n >>> 0
  })
  const crc = (bytes) => (bytes.reduce((sum, byte) => table[(sum ^ byte) & 255] ^ (sum >>> 8), 0xffffffff) ^ 0xffffffff) >>> 0
  const parts = []
  const directory = []
  let at = 0
  for (const [name, content] of Object.entries(files)) {
    const plain = Buffer.from(content)
    const packed = zlib.deflateRawSync(plain)
    const head = Buffer.alloc(26)
    head.writeUInt16LE(20, 0)
    head.writeUInt16LE(8, 4)
    head.writeUInt32LE(crc(plain), 10)
    head.writeUInt32LE(packed.length, 14)
    head.writeUInt32LE(plain.length, 18)
    head.writeUInt16LE(Buffer.byteLength(name), 22)
    parts.push(Buffer.from('PK\x03\x04'), head, Buffer.from(name), packed)
    const rest = Buffer.alloc(14)
    rest.writeUInt32LE(at, 10)
    directory.push(Buffer.from('PK\x01\x02'), Buffer.from([20, 0]), head, rest, Buffer.from(name))
    at += 30 + Buffer.byteLength(name) + packed.length
  }
  const entries = Buffer.concat(directory)
  const end = Buffer.alloc(18)
  end.writeUInt16LE(Object.keys(files).length, 4)
  end.writeUInt16LE(Object.keys(files).length, 6)
  end.writeUInt32LE(entries.length, 8)
  end.writeUInt32LE(at, 12)
  return Buffer.concat([...parts, entries, Buffer.from('PK\x05\x06'), end])
}

module.exports = { assert, annotation, auth, eventually, flow, host, modules, record, refused, request, skip, zip }
