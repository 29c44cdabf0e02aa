// What applications do with kafkajs: topics, produce, offsets. Its consumers are members of groups, which are not served.
const assert = require('node:assert');
const { Kafka, CompressionTypes, logLevel } = require('kafkajs');

async function main() {
  const kafka = new Kafka({ clientId: 'story', brokers: [process.argv[2]], logLevel: logLevel.ERROR });
  const admin = kafka.admin();
  await admin.connect();
  assert.equal(await admin.createTopics({ topics: [{ topic: 'made', numPartitions: 2 }] }), true);
  assert.equal(await admin.createTopics({ topics: [{ topic: 'made' }] }), false);
  assert.deepEqual(await admin.listTopics(), ['made']);
  const producer = kafka.producer();
  await producer.connect();
  let next = 0;
  for (const compression of [CompressionTypes.None, CompressionTypes.GZIP]) {
    for (const acks of [-1, 1]) {
      const messages = Array.from({ length: 50 }, (_, at) => ({ key: `${at}`, value: 'value '.repeat(at), headers: { h: 'x' } }));
      const [told] = await producer.send({ topic: 'orders', messages, acks, compression });
      assert.equal(told.errorCode, 0);
      assert.equal(told.baseOffset, `${next}`);
      next += 50;
    }
  }
  const numbered = kafka.producer({ idempotent: true });
  await numbered.connect();
  for (let at = 0; at < 3; at++) {
    const [told] = await numbered.send({ topic: 'orders', messages: [{ value: `numbered ${at}` }] });
    assert.equal(told.baseOffset, `${next++}`);
  }
  await numbered.disconnect();
  await producer.send({ topic: 'orders', messages: [{ value: 'not waited for' }], acks: 0 });
  await producer.disconnect();
  for (;;) {
    const [offsets] = await admin.fetchTopicOffsets('orders');
    if (offsets.high === '204') break;
    assert.equal(offsets.high, '203');
  }
  const [at] = await admin.fetchTopicOffsetsByTimestamp('orders', Date.now() - 3600_000);
  assert.equal(at.offset, '0');
  await admin.deleteTopics({ topics: ['made'] });
  await admin.disconnect();
}

main().catch((why) => { console.error(why); process.exit(1); });
