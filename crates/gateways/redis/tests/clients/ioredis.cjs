// ioredis end to end: pipelines, transactions, scripts, pub/sub, blocking, streams, scans.
const Redis = require('ioredis')
const { assert, host, port, sleep, run } = require('./support.cjs')

run(async () => {
  const redis = new Redis({ host, port, db: 2 })
  const other = new Redis({ host, port, db: 2 })
  await redis.flushdb()

  assert.equal(await redis.set('k', 'v', 'EX', 100), 'OK')
  assert.deepEqual(await redis.mget('k', 'none'), ['v', null])
  await redis.hset('h', { a: 1, b: 'two' })
  assert.deepEqual(await redis.hgetall('h'), { a: '1', b: 'two' })
  assert.deepEqual(await redis.getBuffer('k'), Buffer.from('v'))

  const pipeline = redis.pipeline()
  for (let at = 0; at < 1000; at++) pipeline.incr('n')
  const answers = await pipeline.exec()
  assert.deepEqual(answers[999], [null, 1000])

  assert.deepEqual(await redis.multi().set('m', 1).incr('m').lpush('m', 'x').exec().then((all) => all.map(([error, value]) => (error ? error.message.split(' ')[0] : value))), ['OK', 2, 'WRONGTYPE'])
  await redis.watch('m')
  await other.set('m', 9)
  assert.equal(await redis.multi().set('m', 0).exec(), null)
  await assert.rejects(redis.multi().set('m').exec(), /EXECABORT/)

  redis.defineCommand('addboth', { numberOfKeys: 2, lua: "return redis.call('incrby', KEYS[1], ARGV[1]) + redis.call('incrby', KEYS[2], ARGV[2])" })
  assert.equal(await redis.addboth('x', 'y', 3, 4), 7)
  assert.equal(await redis.addboth('x', 'y', 3, 4), 14)
  assert.deepEqual(await redis.eval("return {1, 'two', {3}}", 0), [1, 'two', [3]])

  const subscriber = new Redis({ host, port })
  const heard = []
  subscriber.on('message', (channel, message) => heard.push([channel, message]))
  subscriber.on('pmessage', (pattern, channel, message) => heard.push([pattern, channel, message]))
  assert.equal(await subscriber.subscribe('io:one'), 1)
  assert.equal(await subscriber.psubscribe('io:*'), 2)
  assert.equal(await redis.publish('io:one', 'hi'), 2)
  for (let at = 0; heard.length < 2 && at < 100; at++) await sleep(20)
  assert.deepEqual(heard.sort((a, b) => a.length - b.length), [['io:one', 'hi'], ['io:*', 'io:one', 'hi']])
  await subscriber.unsubscribe('io:one')
  await subscriber.punsubscribe('io:*')
  assert.equal(await subscriber.ping(), 'PONG')

  assert.equal(await other.blpop('q', 0.1), null)
  const popped = other.blpop('q', 'q2', 10)
  await sleep(200)
  await redis.rpush('q2', 'job')
  assert.deepEqual(await popped, ['q2', 'job'])

  const id = await redis.xadd('s', '*', 'a', '1')
  assert.deepEqual(await redis.xrange('s', '-', '+'), [[id, ['a', '1']]])
  const reading = other.xread('BLOCK', 10000, 'STREAMS', 's', '$')
  await sleep(200)
  const next = await redis.xadd('s', '*', 'b', '2')
  assert.deepEqual(await reading, [['s', [[next, ['b', '2']]]]])

  const all = redis.pipeline()
  for (let at = 0; at < 300; at++) all.set(`scan:${at}`, at)
  await all.exec()
  const seen = new Set()
  for await (const keys of redis.scanStream({ match: 'scan:*', count: 50 })) keys.forEach((key) => seen.add(key))
  assert.equal(seen.size, 300)

  // Commands at the same time on one connection keep their order; reconnecting finds the data.
  const many = await Promise.all(Array.from({ length: 200 }, () => redis.incr('together')))
  assert.deepEqual(many, Array.from({ length: 200 }, (_, at) => at + 1))
  redis.disconnect(true)
  assert.equal(await redis.get('together'), '200')
  await redis.flushdb()
  console.log('ioredis: done')
})
