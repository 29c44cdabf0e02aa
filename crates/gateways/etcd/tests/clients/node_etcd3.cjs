// The npm package etcd3 as applications use it: keys, transactions, watches that reconnect, leases, locks, elections, maintenance.
//
// usage: node node_etcd3.cjs HOST PORT
'use strict';
const assert = require('node:assert/strict');
const { once } = require('node:events');
const { Etcd3, EtcdLockFailedError } = require('etcd3');

const hosts = `http://${process.argv[2]}:${process.argv[3]}`;
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

async function story(client) {
  await client.delete().prefix('js/');
  await client.put('js/a').value('1');
  assert.equal(await client.get('js/a').string(), '1');
  assert.equal(await client.get('js/none').string(), null);
  await client.put('js/b').value('2');
  assert.deepEqual(await client.getAll().prefix('js/').strings(), { 'js/a': '1', 'js/b': '2' });
  assert.deepEqual(await client.getAll().prefix('js/').sort('Key', 'Descend').limit(1).keys(), ['js/b']);
  assert.equal(await client.getAll().prefix('js/').count(), 2);

  const moved = await client
    .if('js/a', 'Value', '==', '1')
    .then(client.put('js/a').value('3'), client.get('js/b'))
    .else(client.delete().key('js/b'))
    .commit();
  assert.equal(moved.succeeded, true);
  assert.equal(moved.responses[1].response_range.kvs[0].value.toString(), '2');
  const kept = await client.if('js/a', 'Create', '==', 0).then(client.put('js/a').value('no')).commit();
  assert.equal(kept.succeeded, false);
  await client.stm().transact(async (tx) => tx.put('js/stm').value(`${await tx.get('js/a')}!`));
  assert.equal(await client.get('js/stm').string(), '3!');

  const watcher = await client.watch().prefix('js/w').withPreviousKV().create();
  const heard = [];
  watcher.on('put', (now, before) => heard.push(`${now.key}=${now.value} was ${before ? before.value : 'nothing'}`));
  watcher.on('delete', (now) => heard.push(`${now.key} deleted`));
  await client.put('js/w1').value('x');
  await client.put('js/w1').value('y');
  await client.delete().key('js/w1');
  for (let n = 0; heard.length < 3 && n < 500; n += 1) await pause(20);
  assert.deepEqual(heard, ['js/w1=x was nothing', 'js/w1=y was x', 'js/w1 deleted']);
  const begin = (await client.get('js/a').exec()).header.revision;
  await watcher.cancel();
  await client.put('js/w2').value('z');
  const again = await client.watch().prefix('js/w').startRevision(`${Number(begin) - 2}`).create();
  const [first] = await once(again, 'put');
  assert.equal(first.value.toString(), 'x');
  await again.cancel();

  const lease = client.lease(5);
  await lease.put('js/l').value('1');
  assert.ok(Number((await client.leaseClient.leaseTimeToLive({ ID: await lease.grant(), keys: true })).TTL) >= 3);
  await lease.keepaliveOnce();
  await lease.revoke();
  assert.equal(await client.get('js/l').string(), null);

  const lock = client.lock('js-lock').ttl(5);
  await lock.acquire();
  await assert.rejects(client.lock('js-lock').acquire(), EtcdLockFailedError);
  await lock.release();
  assert.equal(await client.lock('js-lock').do(async () => 42), 42);

  const election = client.election('js-election', 5);
  const campaign = election.campaign('me');
  await once(campaign, 'elected');
  assert.equal(await election.leader(), 'me');
  const observer = await election.observe();
  const rival = election.campaign('other');
  await campaign.proclaim('still me');
  for (let n = 0; observer.leader() !== 'still me' && n < 500; n += 1) await pause(20);
  assert.equal(observer.leader(), 'still me');
  const taken = once(rival, 'elected');
  await campaign.resign();
  await taken;
  await observer.cancel();
  await rival.resign();

  const status = await client.maintenance.status();
  assert.ok(status.version.startsWith('3.'));
  assert.equal((await client.cluster.memberList({})).members.length, 1);
  assert.equal((await client.maintenance.alarm({ action: 'Get' })).alarms.length, 0);
  await assert.rejects(client.kv.range({ key: Buffer.from('a'), revision: '99999999' }), /future revision/);
  assert.ok(Number((await client.delete().prefix('js/').exec()).deleted) >= 3);
}

const client = new Etcd3({ hosts });
story(client).then(
  () => client.close(),
  (why) => {
    console.error(why);
    process.exit(1);
  },
);
