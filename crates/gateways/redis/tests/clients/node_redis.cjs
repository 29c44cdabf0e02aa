// node-redis end to end, in RESP2 and RESP3: what its documentation shows, with a pool and auto-pipelining.
const { createClient, createClientPool } = require('redis')
const { assert, host, port, sleep, run, until } = require('./support.cjs')

run(async () => {
  for (const RESP of [2, 3]) {
    const options = { socket: { host, port }, database: 3, RESP, unstableResp3: true }
    const client = await createClient(options).connect()
    await client.flushDb()
    assert.equal(await client.set('k', 'v', { expiration: { type: 'EX', value: 100 } }), 'OK')
    assert.equal(await client.get('k'), 'v')
    assert.ok((await client.ttl('k')) > 90)
    await client.hSet('h', { a: '1', b: 'two' })
    assert.deepEqual({ ...(await client.hGetAll('h')) }, { a: '1', b: 'two' })
    await client.zAdd('z', [{ value: 'one', score: 1 }, { value: 'two', score: 2.5 }])
    assert.deepEqual((await client.zRangeWithScores('z', 0, -1)).map((pair) => ({ ...pair })), [{ value: 'one', score: 1 }, { value: 'two', score: 2.5 }])
    assert.equal(await client.zScore('z', 'two'), 2.5)
    await client.sAdd('s', ['p', 'q'])
    assert.deepEqual([...(await client.sMembers('s'))].sort(), ['p', 'q'])
    assert.deepEqual(await Promise.all([client.incr('n'), client.incr('n'), client.incr('n')]), [1, 2, 3])
    assert.deepEqual(await client.multi().set('m', '1').incr('m').get('m').exec(), ['OK', 2, '2'])

    const other = await client.duplicate().connect()
    await client.watch('m')
    await other.set('m', '9')
    await assert.rejects(client.multi().set('m', '0').exec(), /Watch|watch/i)

    const subscriber = await client.duplicate().connect()
    const heard = []
    await subscriber.subscribe('node:one', (message, channel) => heard.push([channel, message]))
    await subscriber.pSubscribe('node:*', (message, channel) => heard.push([channel, message]))
    await subscriber.sSubscribe('node:shard', (message, channel) => heard.push([channel, message]))
    assert.equal(await client.publish('node:one', 'hi'), 2)
    assert.equal(await client.sPublish('node:shard', 'hi'), 1)
    await until('three messages', () => heard.length === 3)
    await subscriber.unsubscribe('node:one')

    const popped = other.blPop('q', 10)
    await sleep(150)
    await client.rPush('q', 'job')
    assert.deepEqual({ ...(await popped) }, { key: 'q', element: 'job' })

    const id = await client.xAdd('stream', '*', { a: '1' })
    assert.deepEqual((await client.xRange('stream', '-', '+')).map((entry) => [entry.id, { ...entry.message }]), [[id, { a: '1' }]])
    await client.xGroupCreate('stream', 'g', '0')
    const read = await client.xReadGroup('g', 'w', { key: 'stream', id: '>' }, { COUNT: 5 })
    assert.ok(JSON.stringify(read).includes(id))
    assert.equal(await client.xAck('stream', 'g', id), 1)

    assert.equal(await client.eval('return ARGV[1] .. KEYS[1]', { keys: ['k'], arguments: ['v'] }), 'vk')
    for (let at = 0; at < 300; at++) client.set(`scan:${at}`, String(at))
    const seen = new Set()
    for await (const keys of client.scanIterator({ MATCH: 'scan:*', COUNT: 50 })) keys.forEach((key) => seen.add(key))
    assert.equal(seen.size, 300)

    const pool = await createClientPool(options, { minimum: 2, maximum: 8 }).connect()
    await Promise.all(Array.from({ length: 200 }, () => pool.incr('pooled')))
    assert.equal(await client.get('pooled'), '200')
    await client.flushDb()
    for (const each of [pool, subscriber, other, client]) await each.close()
    console.log(`node-redis RESP${RESP}: done`)
  }
})
