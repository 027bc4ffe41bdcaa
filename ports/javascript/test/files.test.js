/** Both kinds of files, against the vectors of shelf.md and file-storage-2.md. */

import assert from "node:assert/strict";
import { test } from "node:test";
import * as dfs20 from "../src/dfs20.js";
import { DamageError, FormatError, UnsoundTailError } from "../src/errors.js";
import { splitRecord } from "../src/record.js";
import * as shelf from "../src/shelf.js";
import { sealedTransaction } from "../src/shelf_seal.js";
import { vectors } from "./vectors.js";

const ERRORS = { tail: UnsoundTailError, damage: DamageError, format: FormatError };

function texts(bytes, { records }) {
  return Object.fromEntries(Array.from(records, ([oid, { offset, length, fault }]) => {
    if (fault) throw fault;
    const record = splitRecord(bytes.subarray(offset, offset + length));
    return [oid, record.data.toString("latin1")];
  }));
}

for (const [format, document, kind] of [[shelf, "shelf", "shelf"], [dfs20, "file-storage-2", "dfs20"]]) {
  for (const { name, bytes, expected } of vectors(document, kind)) {
    test(`${document} vector ${name}`, () => {
      if (expected.error === "format" && format.isUnfinished(bytes)) return; // which FileStorage refuses
      if (expected.error) {
        return assert.throws(() => texts(bytes, format.scan(bytes)), (error) =>
          error instanceof ERRORS[expected.error] && error.offset === (expected.or ?? expected.offset));
      }
      const layout = format.scan(bytes);
      const found = { objects: texts(bytes, layout), transactions: layout.transactions };
      if (format === shelf) Object.assign(found, { sealed: layout.sealed, free: layout.free.map(Number) });
      const { faults = [], ...rest } = expected;
      assert.deepEqual(found, rest);
      assert.deepEqual(format.checkBlocks(bytes, layout).map((fault) => fault.offset), faults);
    });
  }
}

function shelfVector(name) {
  return Buffer.from(vectors("shelf", "shelf").find((vector) => vector.name === name).bytes);
}

/** The bytes of a file with one more transaction, which stores some data as oid 0. */
function appended(bytes, data) {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(data.length);
  const record = Buffer.concat([Buffer.alloc(8), length, data]);
  return Buffer.concat([bytes, shelf.commitBytes(new Map([[0n, record]]), shelf.scan(bytes)).bytes]);
}

test("a length that is damaged before the last transaction is damage, although it leads nowhere (SHELF-24)", () => {
  const bytes = appended(shelfVector("sealed"), Buffer.from("b"));
  bytes[180] ^= 1; // the length of the second transaction, which now ends far beyond the file
  assert.throws(() => shelf.scan(bytes), DamageError);
});

test("a last transaction that is only a seal is damage if it does not match (SHELF-24)", () => {
  const bytes = shelfVector("sealed").subarray(0, 180);
  bytes[48 + 94 + 3] ^= 1; // the year
  assert.throws(() => shelf.scan(bytes), (error) => error instanceof DamageError && error.offset === 40);
});

test("a database inside an object is not taken for transactions of the file (SHELF-25)", () => {
  const sealed = shelfVector("sealed");
  const bytes = appended(sealed, Buffer.concat([Buffer.alloc(100), sealed]));
  bytes[bytes.length - 200] ^= 1;
  assert.throws(() => shelf.scan(bytes), (error) => error instanceof UnsoundTailError && error.offset === sealed.length);
});

test("a block table that differs from the packed part is a fault (SHELF-45)", () => {
  const bytes = shelfVector("packed-with-block-table");
  const covered = shelf.scan(bytes.subarray(0, 242));
  for (const [at, offset] of [[250 + 83, 0], [250 + 79, 250], [250 + 60, 250]]) {
    const entry = Buffer.from(bytes.subarray(250, 250 + 89));
    entry[at - 250] ^= 1;
    const changed = Buffer.concat([bytes.subarray(0, 242), sealedTransaction(entry, 242, covered.running).bytes]);
    const faults = shelf.checkBlocks(changed, shelf.scan(changed));
    assert.deepEqual(faults.map((fault) => fault.offset), [offset], `byte ${at}`);
  }
});
