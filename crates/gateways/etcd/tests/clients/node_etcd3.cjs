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

  const within = client.namespace('js/ns/');
  await within.put('x').value('in');
  assert.equal(await client.get('js/ns/x').string(), 'in');
  await assert.rejects(client.kv.compact({ revision: '99999999' }), /future revision/);
  const at = (await client.kv.range({ key: Buffer.from('js/a') })).header.revision;
  await client.put('js/a').value('newer');
  assert.equal((await client.kv.range({ key: Buffer.from('js/a'), revision: at })).kvs[0].value.toString(), '3');
  await client.kv.compact({ revision: `${Number(at) + 1}`, physical: true });
  await assert.rejects(client.kv.range({ key: Buffer.from('js/a'), revision: at }), /has been compacted/);

  const status = await client.maintenance.status();
  assert.ok(status.version.startsWith('3.'));
  assert.equal((await client.cluster.memberList({})).members.length, 1);
  assert.equal((await client.maintenance.alarm({ action: 'Get' })).alarms.length, 0);
  assert.ok((await client.maintenance.hash()).hash !== 0);
  await client.maintenance.defragment();
  const snapshot = await client.maintenance.snapshot();
  let saved = 0;
  let left;
  for await (const part of snapshot) {
    saved += part.blob.length;
    left = Number(part.remaining_bytes);
  }
  assert.ok(saved > 4096 && left === 0, `${saved} bytes, ${left} left`);
  await assert.rejects(client.kv.range({ key: Buffer.from('a'), revision: '99999999' }), /future revision/);
  assert.ok(Number((await client.delete().prefix('js/').exec()).deleted) >= 3);
}

// Users and roles; in the end everybody may do everything again.
async function rights(client) {
  const role = await client.role('js-readers').create();
  await role.grant({ permission: 'Read', range: client.range({ prefix: 'js/' }) });
  const user = await client.user('js-user').create('secret');
  await user.addRole('js-readers');
  assert.deepEqual((await user.roles()).map((one) => one.name), ['js-readers']);
  const [granted] = await role.permissions();
  assert.equal(granted.permission, 'Read');
  const root = await client.user('root').create('root');
  await client.role('root').create();
  await root.addRole('root');
  await client.put('js/secret').value('told');
  await client.auth.authEnable();
  const enter = (username, password) => new Etcd3({ hosts, auth: { username, password } });
  const reader = enter('js-user', 'secret');
  assert.equal(await reader.get('js/secret').string(), 'told');
  await assert.rejects(reader.put('js/secret').value('other'), /permission denied/);
  await assert.rejects(reader.get('other').string(), /permission denied/);
  await assert.rejects(enter('js-user', 'wrong').get('js/secret').string(), /invalid user ID or password/);
  const manager = enter('root', 'root');
  assert.deepEqual((await manager.getRoles()).map((one) => one.name).sort(), ['js-readers', 'root']);
  assert.deepEqual((await manager.getUsers()).map((one) => one.name).sort(), ['js-user', 'root']);
  await manager.user('js-user').setPassword('new');
  const again = enter('js-user', 'new');
  assert.equal(await again.get('js/secret').string(), 'told');
  await manager.user('js-user').removeRole('js-readers');
  await assert.rejects(again.get('js/secret').string(), /permission denied/);
  await manager.auth.authDisable();
  for (const one of [reader, again, manager]) one.close();
  for (const name of ['js-user', 'root']) await client.user(name).delete();
  for (const name of ['js-readers', 'root']) await client.role(name).delete();
  assert.equal(await client.get('js/secret').string(), 'told');
}

const client = new Etcd3({ hosts });
rights(client).then(() => story(client)).then(
  () => client.close(),
  (why) => {
    console.error(why);
    process.exit(1);
  },
);
