// Stands in for the engines: each line of standard input is a source to compile or a call, each of standard output what came of it. Every
// call has globals of its own.
'use strict'
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')
const readline = require('node:readline')
const util = require('node:util')
const vm = require('node:vm')

const answer = (id, outcome) => process.stdout.write(JSON.stringify({ id, ...outcome }) + '\n')
const failed = (failure, message) => ({ failure, message })
const scripts = new Map()

const compile = ({ name, code }) => {
  try {
    scripts.set(name, new vm.Script(Buffer.from(code, 'base64').toString(), { filename: `${name}.js` }))
    return { ok: '' }
  } catch (error) {
    return failed('invalid', String(error))
  }
}

const wasm = ({ code, params, env }) => {
  const { WASI } = require('node:wasi')
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wasm-'))
  const [input, output, log] = ['in', 'out', 'log'].map((name) => path.join(folder, name))
  fs.writeFileSync(input, JSON.stringify(params))
  const wasi = new WASI({ version: 'preview1', env, stdin: fs.openSync(input), stdout: fs.openSync(output, 'w'), stderr: fs.openSync(log, 'w') })
  wasi.start(new WebAssembly.Instance(new WebAssembly.Module(Buffer.from(code, 'base64')), wasi.getImportObject()))
  const outcome = { ok: fs.readFileSync(output, 'utf8'), logs: fs.readFileSync(log, 'utf8') }
  fs.rmSync(folder, { recursive: true })
  return outcome
}

const run = ({ name, entry, params, env, timeout }, done) => {
  let logs = ''
  const write = (text) => { logs += text; return true }
  const late = () => end(failed('limit', `time: the call ran longer than its limit of ${timeout} ms`))
  const timer = setTimeout(late, timeout)
  const end = (outcome) => { clearTimeout(timer); done({ ...outcome, logs }); done = () => {} }
  const check = (result) => {
    if (result === undefined) return end({ ok: '{}' })
    if (typeof result !== 'object' || result === null || Array.isArray(result)) return end(failed('application', 'The action did not return a dictionary.'))
    end({ ok: JSON.stringify(result) })
  }
  const thrown = (error) => {
    logs += `${error?.stack ?? error}\n`
    end(failed('application', `An error has occurred: ${error}`))
  }
  const print = (...values) => write(util.format(...values) + '\n')
  const module = { exports: {} }
  const context = vm.createContext({
    module, exports: module.exports, require, Buffer, setTimeout, clearTimeout, URL, console: { log: print, info: print, error: print, warn: print },
    process: { env, stdout: { write }, stderr: { write } }
  })
  try {
    scripts.get(name).runInContext(context, { timeout })
    const call = vm.runInContext(`(text) => globalThis[${JSON.stringify(entry)}](JSON.parse(text))`, context)
    const result = call(JSON.stringify(params))
    if (typeof result?.then === 'function') result.then(check, thrown)
    else check(result)
  } catch (error) {
    thrown(error)
  }
}

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const asked = JSON.parse(line)
  try {
    if (asked.op === 'compile') answer(asked.id, compile(asked))
    else if (asked.op === 'wasm') answer(asked.id, wasm(asked))
    else run(asked, (outcome) => answer(asked.id, outcome))
  } catch (error) {
    answer(asked.id, failed('application', String(error)))
  }
})
