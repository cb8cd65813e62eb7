// Runs all flows one after the other, or those that are named.
'use strict'
const { spawnSync } = require('node:child_process')
const path = require('node:path')

const all = ['actions', 'invoking', 'sequences', 'packages', 'rules', 'web', 'activations', 'errors', 'wasm', 'aio']
const named = process.argv.slice(2)
const failed = (named.length ? named : all).filter((name) => spawnSync(process.execPath, [path.join(__dirname, `${name}.js`)], { stdio: 'inherit' }).status !== 0)
if (failed.length) {
  console.error(`failed: ${failed.join(', ')}`)
  process.exit(1)
}
