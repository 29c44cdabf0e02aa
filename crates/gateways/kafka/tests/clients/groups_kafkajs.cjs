// What applications do with groups of kafkajs: share partitions, commit and resume, look after groups.
const assert = require('node:assert');
const { Kafka, logLevel } = require('kafkajs');

async function until(what, done) {
  const deadline = Date.now() + 30_000;
  while (!done()) {
    assert(Date.now() < deadline, what);
    await new Promise((go) => setTimeout(go, 10));
  }
}

async function main() {
  const kafka = new Kafka({ clientId: 'story', brokers: [process.argv[2]], logLevel: logLevel.NOTHING });
  const admin = kafka.admin();
  await admin.connect();
  await admin.createTopics({ topics: [{ topic: 'jobs', numPartitions: 4 }] });
  const producer = kafka.producer();
  await producer.connect();
  const produce = (from, to) => producer.send({
    topic: 'jobs',
    messages: Array.from({ length: to - from }, (_, at) => ({ value: `${from + at}`, partition: (from + at) % 4 })),
  });
  await produce(0, 400);

  const member = async () => {
    const consumer = kafka.consumer({ groupId: 'g', sessionTimeout: 6000, heartbeatInterval: 200, maxWaitTimeInMs: 200 });
    const one = { consumer, read: [], partitions: 0 };
    consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => { one.partitions = (payload.memberAssignment.jobs || []).length; });
    await consumer.connect();
    await consumer.subscribe({ topic: 'jobs', fromBeginning: true });
    await consumer.run({ autoCommitThreshold: 1, eachMessage: async ({ message }) => { one.read.push(Number(message.value)); } });
    return one;
  };
  const first = await member();
  await until('all is read', () => first.read.length >= 400);
  const second = await member();
  await until('they share', () => first.partitions === 2 && second.partitions === 2);
  await produce(400, 480);
  await until('both read on', () => new Set([...first.read, ...second.read]).size === 480);
  await second.consumer.disconnect();
  await until('the first has all', () => first.partitions === 4);
  const { groups } = await admin.listGroups();
  assert.deepEqual(groups, [{ groupId: 'g', protocolType: 'consumer' }]);
  const shown = await admin.describeGroups(['g']);
  assert.equal(shown.groups[0].state, 'Stable');
  assert.equal(shown.groups[0].members.length, 1);
  await first.consumer.disconnect();
  const [offsets] = await admin.fetchOffsets({ groupId: 'g', topics: ['jobs'] });
  assert.deepEqual(offsets.partitions.map((one) => one.offset), ['120', '120', '120', '120']);
  await produce(480, 500);
  const third = await member();
  await until('it resumes', () => third.read.length >= 20);
  assert.deepEqual(third.read.sort((a, b) => a - b), Array.from({ length: 20 }, (_, at) => 480 + at));
  await third.consumer.disconnect();
  await admin.deleteGroups(['g']);
  await producer.disconnect();
  await admin.disconnect();
}

main().catch((why) => { console.error(why); process.exit(1); });
