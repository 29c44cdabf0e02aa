// redlock and rate-limiter-flexible end to end.
const Redis = require('ioredis')
const Redlock = require('redlock')
const { RateLimiterRedis, BurstyRateLimiter } = require('rate-limiter-flexible')
const { assert, host, port, sleep, run } = require('./support.cjs')

run(async () => {
  const redis = new Redis({ host, port, db: 9 })
  await redis.flushdb()

  const locks = new Redlock([redis], { retryCount: 200, retryDelay: 20, retryJitter: 10 })
  let inside = 0
  let most = 0
  let count = 0
  await Promise.all(Array.from({ length: 10 }, async () => {
    for (let at = 0; at < 5; at++) {
      const lock = await locks.lock('door', 5000)
      most = Math.max(most, ++inside)
      await sleep(1)
      inside--
      count++
      await lock.unlock()
    }
  }))
  assert.deepEqual([most, count], [1, 50])
  const held = await locks.lock('held', 300)
  const impatient = new Redlock([redis], { retryCount: 0 })
  await assert.rejects(impatient.lock('held', 300))
  await held.extend(300)
  await sleep(500)
  const next = await impatient.lock('held', 300)
  await assert.rejects(held.unlock())
  await next.unlock()

  const limiter = new RateLimiterRedis({ storeClient: redis, points: 5, duration: 60, keyPrefix: 'plain' })
  let passed = 0
  await Promise.all(Array.from({ length: 12 }, () => limiter.consume('client').then(() => passed++, () => {})))
  assert.equal(passed, 5)
  const state = await limiter.get('client')
  assert.equal(state.consumedPoints, 12)
  assert.ok(state.msBeforeNext > 50000)
  await limiter.penalty('client', 2)
  assert.equal((await limiter.get('client')).consumedPoints, 14)
  assert.equal(await limiter.delete('client'), true)
  const short = new RateLimiterRedis({ storeClient: redis, points: 1, duration: 1, keyPrefix: 'short', blockDuration: 1 })
  await short.consume('client')
  await assert.rejects(short.consume('client'))
  await sleep(1300)
  await short.consume('client')
  const bursty = new BurstyRateLimiter(
    new RateLimiterRedis({ storeClient: redis, points: 2, duration: 60, keyPrefix: 'steady' }),
    new RateLimiterRedis({ storeClient: redis, points: 3, duration: 60, keyPrefix: 'burst' }),
  )
  passed = 0
  for (let at = 0; at < 10; at++) await bursty.consume('client').then(() => passed++, () => {})
  assert.equal(passed, 5)
  await redis.flushdb()
  console.log('redlock, rate-limiter-flexible: done')
})
