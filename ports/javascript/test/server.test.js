/** Clients of a real server: the steps of the specification, and Python beside JavaScript. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { LostConnectionError, PersistentList, PersistentObject, open } from "../src/index.js";
import { durus, needsDurus, newFolder, python, pythonBeside, serve } from "./durus.js";
import { Performance, examples } from "./steps.js";

for (const protocol of [1, 2]) {
  for (const { name, lines } of [...examples("transactions"), ...examples("object-model")]) {
    test(`steps ${name}, version ${protocol}`, needsDurus, async (t) => {
      const address = await serve(t, { file: join(newFolder(t), "steps.durus") });
      const stage = new Performance(() => open(address, { protocol }));
      for (const line of lines) {
        await stage.perform(line).catch((error) => {
          throw new Error(`at the step "${line}": ${error.message}`, { cause: error });
        });
      }
      await stage.close();
    });
  }

  test(`a counter of Python and JavaScript clients comes out right, version ${protocol}`, needsDurus, async (t) => {
    const address = await serve(t, { file: join(newFolder(t), "counter.durus") });
    const count = `
import sys, durus
def add(root):
    root["n"] = root.get("n", 0) + 1
with durus.open(sys.argv[1]) as db:
    for _ in range(40):
        db.run(add)
`;
    const add = (root) => root.set("n", (root.get("n") ?? 0) + 1);
    const countHere = async () => {
      const connection = await open(address, { protocol });
      for (let left = 40; left; left--) await connection.run(add, { tries: 1000 });
      await connection.close();
    };
    await Promise.all([pythonBeside(count, address), countHere(), pythonBeside(count, address), countHere()]);
    const connection = await open(address, { protocol });
    assert.equal(connection.root.get("n"), 160);
    await connection.close();
  });

  test(`a pack removes what the root does not reach, version ${protocol}`, needsDurus, async (t) => {
    const address = await serve(t, { file: join(newFolder(t), "pack.durus") });
    const connection = await open(address, { protocol });
    const list = new PersistentList([1]);
    connection.root.set("list", list);
    await connection.commit();
    connection.root.delete("list");
    await connection.commit();
    await connection.pack();
    while ((await connection.storage.load(list.oid)) !== null) await connection.abort();
    await connection.close();
  });

  test(`many new objects in one commit, version ${protocol}`, needsDurus, async (t) => {
    const address = await serve(t, { file: join(newFolder(t), "many.durus") });
    const connection = await open(address, { protocol });
    connection.root.set("all", Array.from({ length: 1000 }, (_, n) => new PersistentList([n])));
    await connection.commit();
    await connection.close();
    const sum = "import sys, durus\nwith durus.open(sys.argv[1]) as db, db.transaction() as root: print(sum(x[0] for x in root['all']))";
    assert.equal(python(sum, address).trim(), "499500");
  });

  test(`a client that is not alone makes the root once, version ${protocol}`, needsDurus, async (t) => {
    const address = await serve(t, { file: join(newFolder(t), "root.durus") });
    const clients = await Promise.all([1, 2, 3].map(() => open(address, { protocol })));
    for (const client of clients) await client.run((root) => root.set("n", (root.get("n") ?? 0) + 1));
    await clients[0].abort();
    await clients[0].root.load();
    assert.equal(clients[0].root.get("n"), 3);
    for (const client of clients) await client.close();
  });

  test(`a server that goes away is a lost connection, version ${protocol}`, needsDurus, async (t) => {
    const address = await serve(t, { file: join(newFolder(t), "lost.durus") });
    const connection = await open(address, { protocol });
    durus("serve", "--stop", "--address", address.replace("durus+unix:", ""));
    await assert.rejects(connection.abort(), LostConnectionError);
    connection.root.set("n", 1);
    await assert.rejects(connection.commit(), LostConnectionError);
  });
}

test("TCP on loopback", needsDurus, async (t) => {
  const address = await serve(t, { file: join(newFolder(t), "tcp.durus"), tcp: true });
  const connection = await open(address);
  connection.root.set("n", 1);
  await connection.commit();
  await connection.close();
});

test("a conflict is retried with an exclusive turn, which has none", needsDurus, async (t) => {
  const address = await serve(t, { file: join(newFolder(t), "turn.durus") });
  const [one, other] = [await open(address), await open(address)];
  let tries = 0;
  let waiting;
  await one.run(async (root) => {
    root.set("n", ++tries);
    other.root.set("n", 0);
    const commit = other.commit();
    if (tries === 1) await commit; // the first try meets a conflict, the last one keeps the other waiting
    else waiting = assert.rejects(commit);
  }, { tries: 2 });
  await waiting;
  assert.equal(tries, 2);
  await one.close();
  await other.close();
});

test("an object of another connection is refused (TXN-11)", needsDurus, async (t) => {
  const address = await serve(t, { file: join(newFolder(t), "two.durus") });
  const [one, other] = [await open(address), await open(address)];
  one.root.set("x", new PersistentObject("durus.persistent Persistent", new Map([["root", other.root]])));
  await assert.rejects(one.commit(), /another connection/);
  await one.close();
  await other.close();
});

