// What the Node.js stories share: the address, assertions, and an end that always comes. Usage of each story: node STORY.cjs HOST PORT
const assert = require('node:assert/strict')

const host = process.argv[2]
const port = Number(process.argv[3])
const sleep = (ms) => new Promise((done) => setTimeout(done, ms))

// Waits until something holds: only a failure waits all the time.
async function until(what, holds, ms = 30000) {
  const end = Date.now() + ms
  while (!(await holds())) {
    assert.ok(Date.now() < end, `${what}: not within ${ms} ms`)
    await sleep(20)
  }
}

function run(story) {
  const late = setTimeout(() => {
    console.error('the story did not end within 120 s')
    process.exit(1)
  }, 120000)
  story().then(
    () => { clearTimeout(late); process.exit(0) },
    (error) => { console.error(error); process.exit(1) },
  )
}

module.exports = { assert, host, port, sleep, until, run }
