// BullMQ end to end: queues with delays, retries, priorities, repetition, rate limits and flows; every job completes once.
const { Queue, Worker, QueueEvents, FlowProducer } = require('bullmq')
const { assert, host, port, run, until } = require('./support.cjs')
const IORedis = require('ioredis')

const connection = { host, port, db: 4, maxRetriesPerRequest: null }
const JOBS = Number(process.env.JOBS || 200)

run(async () => {
  const admin = new IORedis(connection)
  await admin.flushdb()

  const queue = new Queue('orders', { connection })
  const events = new QueueEvents('orders', { connection })
  await events.waitUntilReady()
  const completed = new Map()
  const said = new Set()
  events.on('completed', ({ jobId }) => said.add(jobId))
  const worker = new Worker('orders', async (job) => {
    if (job.name === 'flaky' && job.attemptsMade < 2) throw new Error('not yet')
    if (job.name === 'hopeless') throw new Error('never')
    await job.updateProgress(50)
    return job.data.n * 2
  }, { connection, concurrency: 8 })
  worker.on('completed', (job) => completed.set(job.id, (completed.get(job.id) || 0) + 1))

  await queue.addBulk(Array.from({ length: JOBS }, (_, n) => ({ name: 'plain', data: { n } })))
  const flaky = await queue.add('flaky', { n: 5 }, { attempts: 5, backoff: { type: 'fixed', delay: 50 } })
  const hopeless = await queue.add('hopeless', { n: 6 }, { attempts: 2 })
  const began = Date.now()
  const delayed = await queue.add('delayed', { n: 7 }, { delay: 700 })
  const same = await queue.add('once', { n: 8 }, { jobId: 'just-one' })
  await queue.add('once', { n: 8 }, { jobId: 'just-one' })
  assert.equal(await flaky.waitUntilFinished(events, 30000), 10)
  assert.equal(await delayed.waitUntilFinished(events, 30000), 14)
  assert.ok(Date.now() - began >= 700, 'a delayed job waits')
  assert.equal(await same.waitUntilFinished(events, 30000), 16)
  await until('all jobs', () => completed.size === JOBS + 3)
  await until('all events', () => said.size === JOBS + 3)
  assert.ok([...completed.values()].every((times) => times === 1), 'each job completes once')
  await until('the failure', async () => (await hopeless.getState()) === 'failed')
  const counts = await queue.getJobCounts('wait', 'active', 'delayed', 'completed', 'failed')
  assert.deepEqual(counts, { wait: 0, active: 0, delayed: 0, completed: JOBS + 3, failed: 1 })

  // Priorities: a paused queue is filled, then drained in order.
  const first = new Queue('priorities', { connection })
  await first.pause()
  const order = []
  for (const priority of [5, 1, 3, 2, 4]) await first.add('p', { priority }, { priority })
  const sorter = new Worker('priorities', async (job) => { order.push(job.data.priority) }, { connection, concurrency: 1 })
  await first.resume()
  await until('priorities', () => order.length === 5)
  assert.deepEqual(order, [1, 2, 3, 4, 5])

  // Repetition by a scheduler.
  let ticks = 0
  const clock = new Queue('clock', { connection })
  const ticker = new Worker('clock', async () => { ticks++ }, { connection })
  await clock.upsertJobScheduler('every', { every: 150, limit: 4 }, { name: 'tick' })
  await until('ticks', () => ticks >= 4)
  await clock.removeJobScheduler('every')

  // A rate limit of 5 in 500 ms: 15 jobs take two windows more.
  const limited = new Queue('limited', { connection })
  let done = 0
  const slow = Date.now()
  const limiter = new Worker('limited', async () => { done++ }, { connection, limiter: { max: 5, duration: 500 } })
  await limited.addBulk(Array.from({ length: 15 }, (_, n) => ({ name: 'l', data: { n } })))
  await until('limited jobs', () => done === 15)
  assert.ok(Date.now() - slow >= 900, `15 jobs at 5 in 500 ms took ${Date.now() - slow} ms`)

  // A flow: the parent runs after its children, and sees what they returned.
  const flows = new FlowProducer({ connection })
  let parent
  const children = new Worker('children', async (job) => job.data.n, { connection })
  const parents = new Worker('parents', async (job) => { parent = Object.values(await job.getChildrenValues()).sort() }, { connection })
  await flows.add({ name: 'sum', queueName: 'parents', children: [1, 2, 3].map((n) => ({ name: 'c', queueName: 'children', data: { n } })) })
  await until('the flow', () => parent !== undefined)
  assert.deepEqual(parent, [1, 2, 3])

  for (const each of [worker, sorter, ticker, limiter, children, parents]) await each.close()
  await events.close()
  await queue.obliterate({ force: true })
  for (const each of [queue, first, clock, limited, flows]) await each.close()
  await admin.flushdb()
  console.log(`BullMQ: ${JOBS} jobs and their kin: done`)
})
