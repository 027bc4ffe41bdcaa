/** Both kinds of files, against the vectors of shelf.md and file-storage-2.md. */

import assert from "node:assert/strict";
import { test } from "node:test";
import * as dfs20 from "../src/dfs20.js";
import { DamageError, FormatError, UnsoundTailError } from "../src/errors.js";
import { splitRecord } from "../src/record.js";
import * as shelf from "../src/shelf.js";
import { vectors } from "./vectors.js";

const ERRORS = { tail: UnsoundTailError, damage: DamageError, format: FormatError };

function texts(bytes, { records }) {
  return Object.fromEntries(Array.from(records, ([oid, { offset, length }]) => {
    const record = splitRecord(bytes.subarray(offset, offset + length));
    return [oid, record.data.toString("latin1")];
  }));
}

for (const [format, document] of [[shelf, "shelf"], [dfs20, "file-storage-2"]]) {
  for (const { name, bytes, expected } of vectors(document)) {
    test(`${document} vector ${name}`, () => {
      if (expected.error) {
        return assert.throws(() => format.scan(bytes), (error) =>
          error instanceof ERRORS[expected.error] && error.offset === expected.offset);
      }
      const layout = format.scan(bytes);
      const found = { objects: texts(bytes, layout), transactions: layout.transactions };
      if (format === shelf) Object.assign(found, { sealed: layout.sealed, free: layout.free.map(Number) });
      assert.deepEqual(found, expected);
      assert.deepEqual(format.checkBlocks(bytes, layout), []);
    });
  }
}
