// ioredis in cluster mode: what applications do with it, and that it goes on at another node. Usage: cluster.cjs HOST PORT
const assert = require("node:assert");
const Redis = require("ioredis");
const readline = require("node:readline");

async function main() {
  const [host, port] = [process.argv[2], Number(process.argv[3])];
  const cluster = new Redis.Cluster([{ host, port }], { clusterRetryStrategy: () => 50, retryDelayOnFailover: 50 });
  cluster.on("error", () => {});
  await cluster.set("k", "1");
  assert.equal(await cluster.get("k"), "1");
  assert.deepEqual(await cluster.pipeline().incr("{p}a").incr("{p}b").exec(), [[null, 1], [null, 1]]);
  assert.deepEqual(await cluster.multi().set("{t}a", 1).get("{t}a").exec(), [[null, "OK"], [null, "1"]]);
  assert.equal(cluster.nodes("master").length, 1);
  assert.equal(cluster.nodes("slave").length, 1);
  console.log("ready");
  await new Promise((resolve) => readline.createInterface({ input: process.stdin }).once("line", resolve));
  const until = Date.now() + 30_000;
  for (;;) {
    try {
      assert.equal(await cluster.set("after", "1"), "OK");
      break;
    } catch (error) {
      if (Date.now() > until) throw error;
    }
  }
  console.log("done");
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
