// Transactions as applications use them with kafkajs: commit, abort, a zombie that is fenced off.
const assert = require('node:assert');
const { Kafka, logLevel } = require('kafkajs');

async function main() {
  const kafka = new Kafka({ clientId: 'story', brokers: [process.argv[2]], logLevel: logLevel.NOTHING, retry: { retries: 2 } });
  const admin = kafka.admin();
  await admin.connect();
  await admin.createTopics({ topics: [{ topic: 'left' }] });
  const end = async () => (await admin.fetchTopicOffsets('left'))[0].high;
  const make = () => kafka.producer({ transactionalId: 'kafkajs', maxInFlightRequests: 1, idempotent: true });
  const producer = make();
  await producer.connect();
  for (const [value, commits, wanted] of [['one', true, '2'], ['lost', false, '2'], ['two', true, '4']]) {
    const transaction = await producer.transaction();
    await transaction.send({ topic: 'left', messages: [{ value }, { value }] });
    await (commits ? transaction.commit() : transaction.abort());
    assert.equal(await end(), wanted);
  }
  const zombie = await producer.transaction();
  await zombie.send({ topic: 'left', messages: [{ value: 'of a zombie' }] });
  const other = make();
  await other.connect();
  const fresh = await other.transaction();
  await assert.rejects(zombie.commit());
  await fresh.send({ topic: 'left', messages: [{ value: 'three' }] });
  await fresh.commit();
  assert.equal(await end(), '5');
  await producer.disconnect();
  await other.disconnect();
  await admin.disconnect();
}

main().catch((why) => { console.error(why); process.exit(1); });
