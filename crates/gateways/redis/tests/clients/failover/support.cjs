// What the Node.js stories of a failover share. Usage of each: node STORY.cjs HOST:PORT,HOST:PORT,HOST:PORT
//
// A story says `ready` once its load flows, goes on until its input ends, then checks what came of it all and says one line of counts.
const assert = require('node:assert/strict')
const { setTimeout: sleep } = require('node:timers/promises')

const nodes = process.argv[2].split(',').map((at) => ({ host: at.split(':')[0], port: Number(at.split(':')[1]) }))

// Every node answers as a Sentinel that names itself as the master: a client that loses its node finds the next one.
const connection = (db) => ({
  sentinels: nodes, name: 'mymaster', db, maxRetriesPerRequest: null, connectTimeout: 2000,
  retryStrategy: () => 100, sentinelRetryStrategy: () => 100,
})

const state = { stopping: false }
const stopped = new Promise((done) => {
  process.stdin.on('end', () => { state.stopping = true; done() })
  process.stdin.resume()
})

// Errors that clients saw, by their first word.
const errors = {}
function saw(error) {
  const text = error.message || String(error)
  const word = text.startsWith('ERR') ? text.slice(0, 60) : text.split(/[\s:]/)[0] || error.name
  errors[word] = (errors[word] || 0) + 1
}

async function until(what, holds, ms = 60000) {
  const end = Date.now() + ms
  let last
  for (;;) {
    try { if (await holds()) return } catch (error) { saw(error); last = error }
    assert.ok(Date.now() < end, `${what}: not within ${ms} ms ${last || ''}`)
    await sleep(50)
  }
}

// Tries until it is done: only an answer counts.
async function again(what, act) {
  for (;;) {
    try { return await act() } catch (error) { saw(error); await sleep(50) }
  }
}

function run(story) {
  // A rejection that nobody waits for is a client's background work that met the failover.
  process.on('unhandledRejection', saw)
  story().then(
    (counts) => { console.log(`counts ${JSON.stringify({ ...counts, errors })}`); process.exit(0) },
    (error) => { console.error(error, errors); process.exit(1) },
  )
}

module.exports = { again, assert, connection, nodes, run, saw, sleep, state, stopped, until }
