/**
 * The Kaitai descriptions against the vectors: `KAITAI_MODULES=FOLDER node --test spec/kaitai/vectors.test.js`. The
 * folder is one in which `npm install kaitai-struct-compiler kaitai-struct js-yaml` has run.
 */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { test } from "node:test";
import { PickleReader } from "../../ports/javascript/src/pickle_reader.js";
import { vectors } from "../../ports/javascript/test/vectors.js";

/**
 * The examples whose fault a description can't say: checksums, a seal without its oid, text in a seal, the index; and
 * numbers that are too large for JavaScript.
 */
const UNSEEN = new Set([
  "last-checksum-that-does-not-match", "earlier-checksum-that-does-not-match", "checksum-that-starts-from-0",
  "packed-part-that-its-seal-does-not-match", "damage-before-a-later-seal", "seal-that-lost-its-oid", "seal-with-capital-digits",
  "seal-with-letters-in-its-time", "block-that-its-checksum-does-not-match", "index-that-is-no-dict", "index-that-names-something",
  "lone-seal-with-another-checksum", "wrong-checksum-before-a-transaction-without-a-seal",
  "wrong-checksum-between-a-length-of-0-and-a-later-seal", "index-with-bytes-after-its-stream", "index-with-bytes-after-its-pickle",
  "first-transaction-of-almost-2-to-the-64-bytes", "index-at-almost-2-to-the-64",
]);

const modules = createRequire(path.join(process.env.KAITAI_MODULES, "package.json"));
const KaitaiStream = modules("kaitai-struct/KaitaiStream");
const compiled = {};
for (const name of ["record", "seal", "shelf", "dfs20"]) await compile(name);

function source(name) {
  return modules("js-yaml").load(readFileSync(new URL(`${name}.ksy`, import.meta.url), "utf8"));
}

async function compile(name) {
  const files = await modules("kaitai-struct-compiler").compile("javascript", source(name), { importYaml: async (imported) => source(imported) }, false);
  const title = name[0].toUpperCase() + name.slice(1);
  const load = (imported) => compiled[imported.replace("./", "")] ?? modules(imported);
  compiled[title] = {};
  new Function("exports", "require", files[`${title}.js`])(compiled[title], load);
}

function parse(title, bytes) {
  return new compiled[title][title](new KaitaiStream(bytes));
}

function text(record) {
  return Buffer.from(record.data).toString("latin1");
}

/** What the records of transactions hold, by oid, added to what the packed part holds. */
function objects(packed, transactions) {
  const found = new Map(packed);
  for (const entries of transactions) {
    for (const { record } of entries) if (record && !record.oid.isReserved) found.set(String(exact(record.oid)), text(record));
  }
  return Object.fromEntries(found);
}

function exact(oid) {
  return BigInt(oid.high) * 2n ** 32n + BigInt(oid.low);
}

function readShelf(bytes) {
  const { offsetMap, transactions } = parse("Shelf", bytes);
  const packed = offsetMap.words.filter((word) => !word.isHole).map((word) => [String(word.oid), text(word.entry.record)]);
  return {
    objects: objects(packed, transactions.map(({ entries }) => entries.entries)),
    transactions: transactions.length,
    sealed: transactions.at(-1)?.entries.isSealed ?? false,
    free: freeOids(offsetMap.words),
  };
}

/** The chain of holes [SHELF-9]. */
function freeOids(words) {
  const first = words.length - 1;
  const found = [];
  for (let oid = first; oid >= 0; oid = words[oid].next) {
    if (!words[oid].isHole || (found.length && oid >= found.at(-1))) throw new Error("the chain is broken");
    found.push(oid);
    if (words[oid].next === first) break;
  }
  return found;
}

function readDfs20(bytes) {
  const { ofsIndex, index, transactions } = parse("Dfs20", bytes);
  const packed = Array.from(indexOf(Buffer.from(index)), ([oid, offset]) => {
    const io = new KaitaiStream(bytes.subarray(0, ofsIndex));
    io.seek(offset);
    const { record } = new compiled.Dfs20.Dfs20.Entry(io);
    if (offset < 14 || exact(record.oid) !== oid) throw new Error("the index leads to no entry of this oid");
    return [String(oid), text(record)];
  });
  return { objects: objects(packed, transactions.map(({ entries }) => entries)), transactions: transactions.length };
}

/** The offsets of entries by oid, which a description can't say. */
function indexOf(pickle) {
  const { value } = new PickleReader(() => null, { oldText: "latin1" }).read(pickle);
  return Array.from(value, ([key, offset]) => [(Buffer.isBuffer(key) ? key : Buffer.from(key, "latin1")).readBigUInt64BE(), offset]);
}

for (const [read, document, kind] of [[readShelf, "shelf", "shelf"], [readShelf, "reading-order", "shelf"], [readDfs20, "file-storage-2", "dfs20"]]) {
  for (const { name, bytes, expected } of vectors(document, kind)) {
    test(`${document} vector ${name}`, () => {
      if (UNSEEN.delete(name)) return read(bytes);
      if (expected.error) return assert.throws(() => read(bytes));
      const { faults, ...rest } = expected;
      assert.deepEqual(read(bytes), rest);
    });
  }
}

for (const document of ["record", "pickle"]) {
  for (const { name, bytes, expected } of vectors(document, "record")) {
    test(`${document} vector ${name}`, () => {
      if (expected.error === "malformed") return assert.throws(() => parse("Record", bytes));
      const { oid, refs } = parse("Record", bytes);
      if (expected.error) return;
      assert.deepEqual({ oid: String(exact(oid)), refs: refs.map((ref) => String(exact(ref))) }, { oid: expected.oid, refs: expected.refs });
    });
  }
}

test("each example whose fault can't be said is there", () => assert.deepEqual([...UNSEEN], []));

test("a seal says where it is, when it was written, and its checksum (SHELF-13)", () => {
  const [{ bytes }] = vectors("shelf", "shelf").filter(({ name }) => name === "sealed");
  const { position, time, checksumValue } = parse("Shelf", bytes).transactions[1].entries.entries[1].seal;
  assert.deepEqual([position, time, checksumValue], ["00000000000000d9", "2026-01-02T03:04:05.000006Z", 0xa87610d8]);
});

test("a word of eight bytes has the value of all of them (SHELF-6)", () => {
  const digits = new compiled.Shelf.Shelf.Word(new KaitaiStream(Buffer.from("0001020304050607", "hex")), null, null, 0);
  assert.equal(digits.value, 0x0001020304050607);
});
