// Who a client is, by PLAIN and SCRAM, to kafkajs.
const assert = require('node:assert');
const { Kafka, logLevel } = require('kafkajs');

async function enters(mechanism, username, password) {
  const kafka = new Kafka({ clientId: 'story', brokers: [process.argv[2]], logLevel: logLevel.NOTHING, retry: { retries: 0 }, sasl: { mechanism, username, password } });
  const producer = kafka.producer();
  try {
    await producer.connect();
    await producer.send({ topic: 't', messages: [{ value: 'kafkajs' }] });
    return true;
  } catch (error) {
    assert.match(`${error}`, /SASL/i);
    return false;
  } finally {
    await producer.disconnect();
  }
}

async function main() {
  for (const mechanism of ['plain', 'scram-sha-256', 'scram-sha-512']) {
    assert.equal(await enters(mechanism, 'ann,=é', 'correct horse, é'), true, mechanism);
    assert.equal(await enters(mechanism, 'ann,=é', 'wrong'), false, mechanism);
    assert.equal(await enters(mechanism, 'bob', 'correct horse, é'), false, mechanism);
  }
}

main().then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
