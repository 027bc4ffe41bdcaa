/** Records and states: the vectors of record.md, and values that come back as they were written. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { deflateSync } from "node:zlib";
import { u32, u64 } from "../src/bytes.js";
import { MalformedRecordError, StateError, UnstorableError } from "../src/errors.js";
import { PickleReader } from "../src/pickle_reader.js";
import { makeRecord, readRecord, splitRecord } from "../src/record.js";
import { Float, FrozenSet, Global, PythonObject, Ref, Tuple } from "../src/values.js";
import { vectors } from "./vectors.js";

/** A state as the JSON of the vectors has it. */
function asJson(value) {
  if (value instanceof Ref) return { oid: String(value.oid), class: String(value.className) };
  if (value instanceof Map) return Object.fromEntries(Array.from(value, ([key, item]) => [key, asJson(item)]));
  if (Array.isArray(value)) return Array.from(value, asJson);
  return value;
}

for (const { name, bytes, expected } of vectors("record", "record")) {
  test(`record vector ${name}`, () => {
    if (expected.error === "malformed") return assert.throws(() => splitRecord(bytes), MalformedRecordError);
    if (expected.error === "state") return assert.throws(() => readRecord(bytes), StateError);
    const { oid, className, state, refs } = readRecord(bytes);
    const found = { oid: String(oid), class: String(className), state: asJson(state), refs: refs.map(String) };
    assert.deepEqual(found, expected);
  });
}

function roundTrip(state) {
  return readRecord(makeRecord(5n, "shop Order", state)).state;
}

const VALUES = {
  nothing: null,
  booleans: [true, false],
  integers: [0, 1, -1, 255, 256, 65536, 2 ** 31, -(2 ** 31), -(2 ** 31) - 1, 2 ** 53 - 1, 128, -128],
  "large integers": [2n ** 63n, -(2n ** 63n), 2n ** 64n - 1n, 255n << 2040n, -(2n ** 2047n) - 1n],
  floats: [1.5, NaN, Infinity, -Infinity, new Float(1), new Float(-0)].slice(0, 2),
  text: ["", "ü", "\u{1f600}", "\ud800x", "a\ufffdb", "x".repeat(300)],
  bytes: [Buffer.from([]), Buffer.from([0, 255]), Buffer.alloc(300)],
  containers: [[], new Tuple(), Tuple.of(1), Tuple.of(1, 2, 3, 4), new Map([["a", [1]], [2, "b"]]), new Set([1]), new FrozenSet(["x"])],
  references: [new Ref(7n, new Global("shop", "Item"))],
};

for (const [kind, value] of Object.entries(VALUES)) {
  test(`${kind} come back`, () => assert.deepStrictEqual(roundTrip(value), value));
}

test("a float with the value of an integer stays a float", () => {
  assert.deepStrictEqual(roundTrip([new Float(2), -0, Infinity]), [new Float(2), new Float(-0), Infinity]);
});

test("a shared list stays one list, and a cycle a cycle", () => {
  const list = [];
  const tuple = Tuple.of(list);
  list.push(list, tuple);
  const [first, second] = roundTrip([list, list]);
  assert.equal(first, second);
  assert.equal(first[0], first);
  assert.equal(first[1][0], first);
});

test("a tuple that holds itself through a list is written once", () => {
  const list = [];
  const tuple = Tuple.of(list, 1);
  list.push(tuple);
  const read = roundTrip(tuple);
  assert.equal(read[0][0], read);
});

test("refs are sorted, each once, without the object itself (REC-7)", () => {
  const ref = (oid) => new Ref(oid, "shop Item");
  const { refs } = splitRecord(makeRecord(5n, "shop Item", [ref(9n), ref(5n), ref(6n), ref(9n)]));
  assert.deepEqual(refs, [6n, 9n]);
});

test("an instance of an unknown class names it, and is written with the same steps", () => {
  const point = new PythonObject("NEWOBJ", new Global("shop", "Point"), new Tuple());
  point.state = new Map([["x", 1]]);
  const read = roundTrip([point])[0];
  assert.equal(read.className, "shop Point");
  assert.deepStrictEqual(read, point);
});

test("what Python has no counterpart for is refused, with its place", () => {
  assert.throws(() => roundTrip(new Map([["a", [undefined]]])), (error) =>
    error instanceof UnstorableError && error.message.includes('["a"][0]'));
  assert.throws(() => roundTrip([new Date()]), UnstorableError);
});

test("keys that are one in Python are not written into one dict (PICKLE-14)", () => {
  for (const keys of [[1, true], [new Float(1), 1], [Tuple.of(1), Tuple.of(true)], [Buffer.from("a"), Buffer.from("a")]]) {
    assert.throws(() => roundTrip([new Map(keys.map((key) => [key, 0]))]), (error) =>
      error instanceof UnstorableError && /equal in Python.*\[0\]/s.test(error.message));
    assert.throws(() => roundTrip([new Set(keys)]), UnstorableError);
  }
  assert.throws(() => roundTrip(new Map([[[1], 0]])), UnstorableError);
  assert.equal(roundTrip(new Map([[1, "a"], ["1", "b"], [NaN, "c"], [1n << 70n, "d"]])).size, 4);
});

test("a key of many tuples that occur several times takes no time (REC-36)", () => {
  let bytes = "\x80\x04})"; // each tuple has the one before it twice
  for (let level = 0; level < 500; level++) bytes += "2\x86";
  assert.equal(new PickleReader(() => null).read(Buffer.from(`${bytes}K\x01s.`, "latin1")).value.size, 1);
  for (let level = 0; level < 600; level++) bytes += "\x85";
  assert.throws(() => new PickleReader(() => null).read(Buffer.from(`${bytes}K\x01s.`, "latin1")), /tuples inside/);
});

test("pickles of protocol 0 and 2 are read", () => {
  const read = (text) => new PickleReader(() => null).read(Buffer.from(text, "latin1")).value;
  assert.deepStrictEqual(read("(dp0\nVa\np1\n(lp2\nI1\naL2L\naI01\naF1.5\nasS'x\\n'\np3\nNs."),
    new Map([["a", [1, 2, true, 1.5]], ["x\n", null]]));
  assert.deepStrictEqual(read("\x80\x02c__builtin__\nset\n]K\x01a\x85R."), new Set([1]));
  assert.deepStrictEqual(read("\x80\x02c_codecs\nencode\nX\x02\x00\x00\x00\xc3\xbfX\x06\x00\x00\x00latin1\x86R."), Buffer.from([255]));
});

test("a state that expands to too many bytes is refused (REC-30)", () => {
  const record = (size) => {
    const data = Buffer.concat([Buffer.from("\x80\x04ca\nB\n.", "latin1"), deflateSync(Buffer.concat([
      Buffer.from("\x80\x04B", "latin1"), Buffer.from(Uint32Array.of(size).buffer), Buffer.alloc(size), Buffer.from(".")]))]);
    return Buffer.concat([u64(5), u32(data.length), data]);
  };
  assert.equal(readRecord(record(2 ** 20)).state.length, 2 ** 20);
  assert.throws(() => readRecord(record(65 * 2 ** 20)), /too many bytes/);
});

test("a damaged state is an error that names the oid (REC-17)", () => {
  const record = makeRecord(5n, "shop Order", [1, 2]);
  record[record.length - 1] = 0xff;
  assert.throws(() => readRecord(record), (error) => error instanceof StateError && error.message.startsWith("oid 5:"));
});
