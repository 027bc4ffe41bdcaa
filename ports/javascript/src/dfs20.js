/**
 * The DFS20 file of FileStorage2 as bytes: where its records are, whether it is sound, and what a
 * commit appends. Statements DFS-1 to DFS-12.
 */

import { inflateSync } from "node:zlib";
import { isUnfinishedCopy, lengthAt, u32, u64 } from "./bytes.js";
import { DamageError, FormatError, MalformedRecordError, StateError, UnsoundTailError, wrongPlace } from "./errors.js";
import { PickleReader } from "./pickle_reader.js";
import { splitRecord } from "./record.js";

export const NAME = "DFS20";
export const MAGIC = Buffer.from("DFS20\0");
const PACKED = 14;
/** The index of a new file: an empty dict. */
const EMPTY_INDEX = Buffer.from("789c6b60a9d5030003380130", "hex");
const EMPTY = Buffer.concat([MAGIC, u64(PACKED), u64(EMPTY_INDEX.length), EMPTY_INDEX]);

export function newFile() {
  return EMPTY;
}

/** Whether these are the bytes of a file whose creation was interrupted, DFS-7. */
export function isUnfinished(bytes) {
  return isUnfinishedCopy(bytes, EMPTY);
}

/** Read a whole file, as `scan` of shelf.js does. */
export function scan(bytes) {
  if (!bytes.subarray(0, 6).equals(MAGIC)) throw new FormatError("the file does not start as a DFS20 file does");
  const layout = { records: new Map(), transactions: 0, end: 0, highest: -1n };
  readIndex(bytes, layout);
  while (layout.end < bytes.length) {
    const found = transactionAt(bytes, layout.end);
    if (found.fault !== null) refuse(bytes, layout, found.fault);
    for (const { oid, place } of found.entries) layout.records.set(oid, place);
    layout.transactions += 1;
    layout.end = found.end;
  }
  for (const oid of layout.records.keys()) if (oid > layout.highest) layout.highest = oid;
  return layout;
}

function readIndex(bytes, layout) {
  const start = bytes.length < PACKED ? Infinity : lengthAt(bytes, 6);
  if (start < PACKED || start + 8 > bytes.length) throw new DamageError("the index record is missing", 6);
  layout.end = start + 8 + lengthAt(bytes, start);
  if (layout.end > bytes.length) throw new DamageError("the index record extends beyond the end of the file", start);
  for (const [key, offset] of indexOf(bytes.subarray(start + 8, layout.end), start + 8)) {
    const oid = typeof key === "string" && !/[^\0-\xff]/.test(key) ? Buffer.from(key, "latin1") : key; // DFS-4
    if (!Buffer.isBuffer(oid) || oid.length !== 8) throw new DamageError("the index has an oid that is none", start + 8);
    if (!(Number.isInteger(offset) && offset >= PACKED && offset < start)) throw new DamageError("the index leads out of the packed part", start + 8);
    const number = oid.readBigUInt64BE();
    const entry = entryAt(bytes, offset, start);
    layout.records.set(number, entry?.oid === number ? entry.place : wrongPlace(number, offset)); // DFS-6
  }
}

function indexOf(stream, start) {
  try {
    const { buffer, engine } = inflateSync(stream, { info: true });
    const { value, end } = new PickleReader(() => null, { oldText: "latin1" }).read(buffer);
    if (value instanceof Map && end === buffer.length && engine.bytesWritten === stream.length) return value; // DFS-6
  } catch (error) {
    if (!(error instanceof StateError) && !error.code?.startsWith("Z_")) throw error;
  }
  throw new DamageError("the index record can't be read", start);
}

/** The entry at an offset; null if its length does not fit that of its record, DFS-10. */
function entryAt(bytes, offset, limit) {
  if (offset + 4 > limit) return null;
  const end = offset + 4 + bytes.readUInt32BE(offset);
  if (end > limit) return null;
  try {
    const { oid } = splitRecord(bytes.subarray(offset + 4, end));
    return { oid, place: { offset: offset + 4, length: end - offset - 4 }, end };
  } catch (error) {
    if (error instanceof MalformedRecordError) return null;
    throw error;
  }
}

/** The transaction at an offset; `fault` is the offset of what is unsound in it, or null. */
function transactionAt(bytes, start) {
  const entries = [];
  for (let at = start; ; at = entries.at(-1).end) {
    if (at + 4 > bytes.length) return { fault: at };
    if (bytes.readUInt32BE(at) === 0) return { entries, end: at + 4, fault: null };
    const entry = entryAt(bytes, at, bytes.length);
    if (!entry) return { fault: at };
    entries.push(entry);
  }
}

function refuse(bytes, layout, fault) {
  if (isFollowed(bytes, fault)) throw new DamageError("a transaction has an entry that does not fit", fault);
  const error = new UnsoundTailError("the last transaction is incomplete, as after a crash; it can be cut off with repair", layout.end);
  throw Object.assign(error, { layout });
}

/** Whether there is an entry after the fault from which everything is sound to the end, DFS-11. */
function isFollowed(bytes, fault) {
  for (let proto = bytes.indexOf(0x80, fault + 1); proto >= 0; proto = bytes.indexOf(0x80, proto + 1)) {
    const at = proto - 16; // a length, an oid and a length before the data
    if (at > fault && bytes[proto + 1] >= 1 && bytes[proto + 1] <= 5 && entryAt(bytes, at, bytes.length) && isSoundFrom(bytes, at)) return true;
  }
  return false;
}

function isSoundFrom(bytes, start) {
  while (start < bytes.length) {
    const { end, fault } = transactionAt(bytes, start);
    if (fault !== null) return false;
    start = end;
  }
  return true;
}

export function checkBlocks() {
  return [];
}

/** The bytes that a commit of these records appends, DFS-3. */
export function commitBytes(records, layout) {
  const places = new Map();
  const parts = [];
  let at = layout.end;
  for (const [oid, record] of records) {
    parts.push(u32(record.length), record);
    places.set(oid, { offset: at + 4, length: record.length });
    at += 4 + record.length;
  }
  return { bytes: Buffer.concat([...parts, u32(0)]), places };
}

export function coverBytes() {
  return null;
}

/** New oids are the numbers above the highest one in the file, DFS-8. */
export function* newOids(layout) {
  for (let oid = layout.highest + 1n; ; oid++) yield oid;
}
