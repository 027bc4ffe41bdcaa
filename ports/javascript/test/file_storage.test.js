/** Databases in files: transactions, recovery, and files that this port and Python read and write in turn. */

import assert from "node:assert/strict";
import fs from "node:fs";
import { join } from "node:path";
import { mock, test } from "node:test";
import {
  DamageError, FileStorage, Float, FrozenSet, PersistentList, PersistentObject, PersistentSet, StorageError, Tuple,
  Ref, UnsoundTailError, WriteConflictError, checkFile, makeRecord, open,
} from "../src/index.js";
import { durus, needsDurus, newFolder, python } from "./durus.js";

const FORMATS = ["SHELF-1", "DFS20"];

/** A file with the root's `n` at 1, 2 and 3 in its last three transactions, and the size before the last one. */
async function countedFile(t, format) {
  const path = join(newFolder(t), "counted.durus");
  const connection = await open(path, { format });
  let before;
  for (const n of [1, 2, 3]) {
    before = fs.statSync(path).size;
    connection.root.set("n", n);
    await connection.commit();
  }
  await connection.close();
  return { path, before };
}

async function countIn(path, options) {
  const connection = await open(path, options);
  const count = connection.root.get("n");
  await connection.close();
  return count;
}

function damage(path, offset) {
  const bytes = fs.readFileSync(path);
  bytes[offset] ^= 1;
  fs.writeFileSync(path, bytes);
}

for (const format of FORMATS) {
  test(`what is committed is there, what is aborted is not: ${format}`, async (t) => {
    const path = join(newFolder(t), "own.durus");
    const connection = await open(path, { format });
    const { root } = connection;
    root.set("list", new PersistentList([1]));
    await connection.commit();
    root.get("list").push(2);
    await connection.abort();
    assert.deepEqual([...(await root.get("list").load())], [1]);
    await connection.close();
    assert.deepEqual(checkFile(path), []);
  });

  test(`a cut anywhere in the last transaction is a tail: ${format}`, async (t) => {
    const { path, before } = await countedFile(t, format);
    const whole = fs.readFileSync(path);
    for (let size = before + 1; size < whole.length; size++) {
      fs.writeFileSync(path, whole.subarray(0, size));
      assert.throws(() => new FileStorage(path), (error) => error instanceof UnsoundTailError && error.offset === before);
    }
  });

  test(`a repair keeps the bytes that it cuts off: ${format}`, async (t) => {
    const { path, before } = await countedFile(t, format);
    fs.truncateSync(path, before + 10);
    const tail = fs.readFileSync(path).subarray(before);
    assert.equal(await countIn(path, { repair: true }), 2);
    const [kept] = fs.readdirSync(join(path, "..")).filter((name) => name !== "counted.durus");
    assert.deepEqual(fs.readFileSync(join(path, "..", kept)), tail);
    assert.equal(fs.statSync(path).size, before);
  });

  test(`a reader sees what is before the tail, and changes nothing: ${format}`, async (t) => {
    const { path, before } = await countedFile(t, format);
    fs.truncateSync(path, before + 10);
    const warned = new Promise((resolve) => process.once("warning", resolve));
    assert.equal(await countIn(path, { readonly: true }), 2);
    assert.match((await warned).message, /incomplete|beyond the end/);
    assert.equal(fs.statSync(path).size, before + 10);
  });

  test(`a writer keeps other writers out: ${format}`, async (t) => {
    const { path } = await countedFile(t, format);
    const storage = new FileStorage(path);
    assert.throws(() => new FileStorage(path), StorageError);
    await storage.close();
    await new FileStorage(path).close();
  });

  test(`a file whose creation was interrupted is made again: ${format}`, async (t) => {
    const path = join(newFolder(t), "new.durus");
    await (await open(path, { format })).close();
    for (const bytes of [Buffer.alloc(0), Buffer.alloc(20), fs.readFileSync(path).subarray(0, 21)]) {
      fs.writeFileSync(path, bytes);
      await (await open(path, { format })).close();
      assert.deepEqual(checkFile(path), []);
    }
  });

  test(`a reference to nothing is a write conflict (TXN-10): ${format}`, async (t) => {
    const connection = await open(join(newFolder(t), "nothing.durus"), { format });
    connection.root.set("x", new Ref(77n, "durus.persistent_list PersistentList"));
    await assert.rejects(connection.commit(), (error) => error instanceof WriteConflictError && error.oids[0] === 77n);
    await connection.close();
  });

  test(`Python and this port write one file in turn: ${format}`, needsDurus, async (t) => {
    const path = join(newFolder(t), "turns.durus");
    const storage = format === "DFS20" ? "durus.file_storage2.FileStorage2" : "durus.file_storage.FileStorage";
    const add = `
import sys, pydoc
from durus.connection import Connection
connection = Connection(pydoc.locate("${storage}")(sys.argv[1]))
root = connection.get_root()
root["n"] = root.get("n", 0) + 1
connection.commit()
connection.get_storage().close()
`;
    for (const n of [1, 3, 5]) {
      python(add, path);
      const connection = await open(path);
      assert.equal(connection.root.get("n"), n);
      connection.root.set("n", n + 1);
      await connection.commit();
      await connection.close();
    }
    assert.match(durus("check", path), /clean/);
  });
}

test("a changed byte before the last transaction is damage, and nothing is repaired", async (t) => {
  const { path, before } = await countedFile(t, "SHELF-1");
  damage(path, before - 100);
  const bytes = fs.readFileSync(path);
  assert.throws(() => new FileStorage(path, { repair: true }), DamageError);
  assert.deepEqual(fs.readFileSync(path), bytes);
});

test("no changed byte of a sealed file passes", async (t) => {
  const { path } = await countedFile(t, "SHELF-1");
  const whole = fs.readFileSync(path);
  for (let offset = 0; offset < whole.length; offset++) {
    damage(path, offset);
    assert.equal(checkFile(path).length, 1, `byte ${offset}`);
    fs.writeFileSync(path, whole);
  }
});

/** A call of node:fs fails once, as on a full or broken disk. */
function failOnce(t, call, times = 0) {
  const failing = mock.method(fs, call);
  failing.mock.mockImplementationOnce(() => {
    throw new Error("no space left on device");
  }, times);
  t.after(() => failing.mock.restore());
}

test("a commit that can't be written is cut off, and the next one is stored (SHELF-20)", async (t) => {
  const { path } = await countedFile(t, "SHELF-1");
  const connection = await open(path);
  const { size } = fs.statSync(path);
  connection.root.set("n", 4);
  const write = fs.writeSync;
  const half = mock.method(fs, "writeSync");
  half.mock.mockImplementationOnce((fd, bytes, at, count, offset) => write(fd, bytes, at, 10, offset), 0);
  half.mock.mockImplementationOnce(() => {
    throw new Error("no space left on device");
  }, 1);
  await assert.rejects(connection.commit(), StorageError);
  half.mock.restore();
  assert.equal(fs.statSync(path).size, size);
  await connection.commit();
  await connection.close();
  assert.equal(await countIn(path), 4);
});

test("after an fsync that failed no commit is accepted (SHELF-20)", async (t) => {
  const { path } = await countedFile(t, "SHELF-1");
  const connection = await open(path);
  connection.root.set("n", 4);
  failOnce(t, "fsyncSync");
  await assert.rejects(connection.commit(), StorageError);
  await assert.rejects(connection.commit(), /an fsync failed/);
  await connection.close();
  assert.equal(await countIn(path), 3);
});

test("a record under another oid, or a reserved one, is refused (REC-6)", async (t) => {
  const { path } = await countedFile(t, "SHELF-1");
  const storage = new FileStorage(path);
  const store = (oid, record) => storage.commit({ accessed: new Set(), records: new Map([[oid, record]]) });
  await assert.rejects(store(0n, makeRecord(1n, "a B", null)), StorageError);
  await assert.rejects(store(2n ** 64n - 1n, makeRecord(2n ** 64n - 1n, "a B", null)), StorageError);
  await storage.close();
});

test("a file that was removed takes no commit (SHELF-47)", async (t) => {
  const { path } = await countedFile(t, "SHELF-1");
  const connection = await open(path);
  fs.unlinkSync(path);
  connection.root.set("n", 4);
  await assert.rejects(connection.commit(), StorageError);
  await connection.close();
});

test("what another program appends is refused, not overwritten (SHELF-47)", async (t) => {
  const { path } = await countedFile(t, "SHELF-1");
  const connection = await open(path);
  fs.appendFileSync(path, "x");
  connection.root.set("n", 4);
  await assert.rejects(connection.commit(), StorageError);
  await connection.close();
  assert.equal(fs.readFileSync(path).at(-1), "x".charCodeAt(0));
});

test("oids that a pack set free are used again, with their records in the right place", needsDurus, async (t) => {
  const path = join(newFolder(t), "packed.durus");
  let connection = await open(path);
  for (const name of ["a", "b", "c"]) connection.root.set(name, new PersistentList([name]));
  await connection.commit();
  connection.root.delete("b");
  await connection.commit();
  await connection.close();
  durus("pack", path);
  assert.deepEqual(checkFile(path), []);
  connection = await open(path);
  connection.root.set("d", new PersistentList(["d"])).set("e", new PersistentList(["e"]));
  await connection.commit();
  await connection.close();
  assert.match(durus("check", path), /clean/);
  connection = await open(path);
  for (const name of ["a", "c", "d", "e"]) assert.equal((await connection.root.get(name).load()).at(0), name);
  await connection.close();
});

test("each block of a packed part is compared with the block table (SHELF-45)", needsDurus, async (t) => {
  const path = join(newFolder(t), "blocks.durus");
  const connection = await open(path);
  connection.root.set("text", "x".repeat(40000)); // three blocks
  await connection.commit();
  await connection.close();
  durus("pack", path);
  assert.deepEqual(checkFile(path), []);
});

test("values of Python are read, and those of this port are read by Python", needsDurus, async (t) => {
  const path = join(newFolder(t), "values.durus");
  const made = `
import datetime, decimal, enum, sys, durus
from durus.persistent_set import PersistentSet
with durus.open(sys.argv[1]) as db, db.transaction() as root:
    root["plain"] = [None, True, 1, -2**70, 1.0, 1.5, "ü", "\\ud800", b"\\xff", (1, (2,)), {1}, frozenset("a"), {"k": [1]}]
    root["day"] = datetime.date(2026, 1, 2)
    root["money"] = decimal.Decimal("1.10")
    root["array"] = bytearray(b"ab")
    root["set"] = PersistentSet([1])
    root["tree"] = durus.BTree({1: "one"})
`;
  python(made, path);
  const connection = await open(path);
  const { root } = connection;
  const plain = [null, true, 1, -(2n ** 70n), new Float(1), 1.5, "ü", "\ud800", Buffer.from([255]), Tuple.of(1, Tuple.of(2)),
    new Set([1]), new FrozenSet(["a"]), new Map([["k", [1]]])];
  assert.deepStrictEqual(root.get("plain"), plain);
  assert.equal(root.get("day").className, "datetime date");
  assert.equal(root.get("money").args[0], "1.10");
  assert.deepEqual([...(await root.get("set").load())], [1]);
  const tree = await root.get("tree").load();
  assert.deepStrictEqual((await tree.state.get("root").load()).state.get("items"), [Tuple.of(1, "one")]);
  root.get("set").add(2); // and everything of the root is written again
  root.set("own", new PersistentSet(["x"]));
  await connection.commit();
  await connection.close();
  const read = `
import datetime, decimal, sys, durus
with durus.open(sys.argv[1]) as db, db.transaction() as root:
    assert root["plain"] == [None, True, 1, -2**70, 1.0, 1.5, "ü", "\\ud800", b"\\xff", (1, (2,)), {1}, frozenset("a"), {"k": [1]}]
    assert type(root["plain"][4]) is float
    assert root["day"] == datetime.date(2026, 1, 2)
    assert root["money"] == decimal.Decimal("1.10") and root["array"] == bytearray(b"ab")
    assert set(root["set"]) == {1, 2} and set(root["own"]) == {"x"}
    assert root["tree"][1] == "one"
`;
  python(read, path);
});

test("a class that Python has gets the state that this port has written", needsDurus, async (t) => {
  const path = join(newFolder(t), "person.durus");
  const connection = await open(path);
  const ann = new PersistentObject("people Person", new Map([["name", "Ann"]]));
  const ben = new PersistentObject("people Person", { name: "Ben", friends: [ann] });
  ann.state.set("friends", [ben]);
  connection.root.set("ann", ann);
  await connection.commit();
  await connection.close();
  const read = `
import sys, types, durus
people = sys.modules["people"] = types.ModuleType("people")
class Person(durus.Persistent): pass
Person.__module__ = "people"
people.Person = Person
with durus.open(sys.argv[1]) as db, db.transaction() as root:
    ann = root["ann"]
    print(type(ann).__name__, ann.name, ann.friends[0].name, ann.friends[0].friends[0] is ann)
`;
  assert.equal(python(read, path).trim(), "Person Ann Ben True");
});

test("a failed commit leaves the changes, and new objects without oids", async (t) => {
  const connection = await open(join(newFolder(t), "failed.durus"));
  const list = new PersistentList([undefined]);
  connection.root.set("list", list);
  await assert.rejects(connection.commit());
  assert.equal(list.oid, null);
  list.set(0, 1);
  await connection.commit();
  assert.equal(list.oid, 1n);
  await connection.close();
});

