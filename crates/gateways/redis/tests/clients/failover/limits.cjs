// Locks and limits while leaders are killed: never two holders at once, never more than the limit allows; and what ioredis was told is written is there.
const Redis = require('ioredis')
const Redlock = require('redlock')
const { RateLimiterRedis } = require('rate-limiter-flexible')
const { again, assert, connection, nodes, run, saw, sleep, state, stopped, until } = require('./support.cjs')

const TTL = 2000
const POINTS = 30
const now = () => performance.now()

// No two intervals of a list overlap: each begins when the lock was granted, and ends when its holder gave it up or its time was over.
function overlaps(held) {
  held.sort((a, b) => a.from - b.from)
  let [end, found] = [0, 0]
  for (const { from, to } of held) {
    if (from < end) found++
    end = Math.max(end, to)
  }
  return found
}

run(async () => {
  // Redlock, by six clients: some vanish with the lock, so that only its time to live frees it.
  const held = []
  const redlock = async (number) => {
    const redis = new Redis(connection(9))
    redis.on('error', saw)
    const locks = new Redlock([redis], { retryCount: 0 })
    while (!state.stopping) {
      const asked = now()
      const lock = await locks.lock('door', TTL).catch((error) => { if (error.name !== 'LockError') saw(error) })
      if (!lock) { await sleep(5 + Math.random() * 10); continue }
      const mine = { from: now(), to: asked + TTL * 0.98, number }
      // Granted, and over before the answer came: nobody acts on it.
      if (mine.from >= mine.to) continue
      held.push(mine)
      await sleep(Math.random() * 10)
      if (Math.random() < 0.02) continue
      mine.to = Math.min(mine.to, now())
      await lock.unlock().catch(saw)
    }
  }

  // Quorate's own lock, by three clients, each at a node of its own first: tokens grow from grant to grant.
  const fenced = []
  const tokens = async (number) => {
    const order = connection(9)
    order.sentinels = [...nodes.slice(number), ...nodes.slice(0, number)]
    const redis = new Redis(order)
    redis.on('error', saw)
    while (!state.stopping) {
      const asked = now()
      const token = await redis.call('Q.LOCK', 'gate', TTL, 'WAIT', 500).catch(saw)
      if (token === null || token === undefined) continue
      const mine = { from: now(), to: asked + TTL, token: Number(token) }
      if (mine.from >= mine.to) continue
      fenced.push(mine)
      await sleep(Math.random() * 5)
      mine.to = Math.min(mine.to, now())
      await redis.call('Q.UNLOCK', 'gate', token).catch(saw)
    }
  }

  // A limit per name for the whole run: asked far more often than it allows, by three clients.
  const passed = new Map()
  const refused = { limited: 0 }
  let names = 0
  const limits = async () => {
    const redis = new Redis(connection(9))
    redis.on('error', saw)
    const limiter = new RateLimiterRedis({ storeClient: redis, points: POINTS, duration: 3600, keyPrefix: 'limit' })
    while (!state.stopping) {
      const name = `client-${names % 5}-${Math.floor(names / 500)}`
      names++
      await limiter.consume(name).then(
        () => passed.set(name, (passed.get(name) || 0) + 1),
        (why) => { if (why instanceof Error) saw(why); else refused.limited++ },
      )
      await sleep(3)
    }
  }

  // Plain writes: every one that was answered is there; one whose connection was cut may be there twice, ioredis sends it again.
  const acknowledged = []
  let wrote = 0
  const writes = async () => {
    const redis = new Redis(connection(9))
    redis.on('error', saw)
    while (!state.stopping) {
      const mine = `w${wrote++}`
      const done = await redis.multi().rpush('written', mine).incr('count').exec().then((results) => results.every(([error]) => !error), (error) => { saw(error); return false })
      if (done) acknowledged.push(mine)
      await sleep(2)
    }
  }

  const loops = [...[1, 2, 3, 4, 5, 6].map(redlock), ...[0, 1, 2].map(tokens), ...[1, 2, 3].map(limits), ...[1, 2, 3, 4].map(writes)]
  await until('load of every kind', () => held.length > 5 && fenced.length > 5 && passed.size > 3 && acknowledged.length > 50)
  console.log('ready')
  await stopped
  await Promise.all(loops)

  const redis = new Redis(connection(9))
  redis.on('error', saw)
  const written = await again('read', () => redis.lrange('written', 0, -1))
  const count = Number(await again('read', () => redis.get('count')))
  const there = new Set(written)
  const lost = acknowledged.filter((one) => !there.has(one)).length
  const most = Math.max(...passed.values())
  fenced.sort((a, b) => a.from - b.from)
  const backwards = fenced.filter((one, at) => at > 0 && one.token <= fenced[at - 1].token).length
  const counts = {
    'redlock grants': held.length, 'two holders': overlaps(held), 'Q.LOCK grants': fenced.length, 'two Q.LOCK holders': overlaps(fenced), 'tokens that fell': backwards,
    limits: passed.size, 'most let pass': most, 'of': POINTS, limited: refused.limited,
    written: acknowledged.length, lost, 'written twice': written.length - there.size, 'unanswered, there': written.length - acknowledged.length,
  }
  const said = JSON.stringify(counts)
  assert.deepEqual([overlaps(held), overlaps(fenced), backwards, lost], [0, 0, 0, 0], said)
  assert.ok(most <= POINTS && refused.limited > 0, said)
  assert.equal(count, written.length, `a transaction is whole or not there: ${said}`)
  return counts
})
