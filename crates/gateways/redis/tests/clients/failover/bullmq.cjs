// BullMQ while leaders are killed: no job that was accepted is lost; each completes, some of them after more than one run.
const { Queue, Worker } = require('bullmq')
const { again, assert, connection, run, saw, sleep, state, stopped, until } = require('./support.cjs')

run(async () => {
  const queue = new Queue('orders', { connection: connection(4) })
  queue.on('error', saw)
  const runs = new Map()
  const tally = { stalled: 0 }
  const work = async (job) => {
    runs.set(job.id, (runs.get(job.id) || 0) + 1)
    await sleep(Math.random() * 10)
    if (job.name === 'flaky' && job.attemptsMade < 1) throw new Error('not yet')
    return job.data.n
  }
  const workers = [1, 2].map(() => new Worker('orders', work, {
    connection: connection(4), concurrency: 4, lockDuration: 3000, stalledInterval: 1000, maxStalledCount: 1000, runRetryDelay: 100,
  }))
  for (const worker of workers) {
    worker.on('error', saw)
    worker.on('stalled', () => tally.stalled++)
  }

  let next = 0
  const accepted = []
  const produce = async () => {
    while (!state.stopping) {
      const n = next++
      const name = n % 10 === 9 ? 'flaky' : 'plain'
      // An id of the job's own makes adding it a second time harmless: whoever got no answer asks again.
      const options = { jobId: `job-${n}`, attempts: 20, delay: n % 10 === 5 ? 300 : 0, backoff: { type: 'fixed', delay: 50 } }
      const job = await again('add', () => queue.add(name, { n }, options))
      accepted.push(job.id)
      await sleep(10)
    }
  }
  const producers = [1, 2, 3, 4].map(produce)
  await until('the first jobs', () => runs.size > 20)
  console.log('ready')
  await stopped
  await Promise.all(producers)
  await until('an empty queue', async () => {
    const counts = await queue.getJobCounts('wait', 'active', 'delayed', 'prioritized', 'paused')
    return Object.values(counts).every((count) => count === 0)
  })
  const states = {}
  for (const id of accepted) {
    const its = await queue.getJobState(id)
    states[its] = (states[its] || 0) + 1
  }
  const lost = accepted.filter((id) => !runs.has(id)).length
  const plain = accepted.filter((id) => Number(id.slice(4)) % 10 !== 9)
  const counts = { accepted: accepted.length, states, lost, 'ran again': plain.filter((id) => runs.get(id) > 1).length, ...tally }
  assert.equal(lost, 0, JSON.stringify(counts))
  assert.deepEqual(states, { completed: accepted.length }, JSON.stringify(counts))
  return counts
})
