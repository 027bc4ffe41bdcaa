/**
 * The SHELF-1 file as bytes: where its records are, whether it is sound, and what a commit appends.
 * Nothing here opens a file. Statements SHELF-1 to SHELF-28 and SHELF-40 to SHELF-45.
 */

import { crc32 } from "node:zlib";
import { isUnfinishedCopy, lengthAt, u64 } from "./bytes.js";
import { DamageError, FormatError, MalformedRecordError, UnsoundTailError, wrongPlace } from "./errors.js";
import { FIRST_RESERVED_OID, splitRecord } from "./record.js";
import { SEAL_OID, SEAL_SIZE, checksumFor, hasSealAfter, hasSealBody, sealAt, sealedTransaction } from "./shelf_seal.js";

export const NAME = "SHELF-1";
export const MAGIC = Buffer.from("SHELF-1\n");
const EMPTY = Buffer.concat([MAGIC, u64(0), u64(16), u64(1), u64(0)]);
const TABLE_OID = 2n ** 64n - 2n;
const BLOCK = 16384;

/** The bytes of a new file, SHELF-3. */
export function newFile() {
  return EMPTY;
}

/** Whether these are the bytes of a file whose creation was interrupted, SHELF-3. */
export function isUnfinished(bytes) {
  return isUnfinishedCopy(bytes, EMPTY);
}

/**
 * Read a whole file.
 *
 * @returns {Layout} where the records are
 * @throws {UnsoundTailError} with the layout of what is sound as `layout`
 */
export function scan(bytes) {
  if (!bytes.subarray(0, 8).equals(MAGIC)) throw new FormatError("the file does not start as a SHELF-1 file does");
  const layout = new Layout();
  readPackedPart(bytes, layout);
  let before = null; // the transaction before, if it has length 0
  while (layout.end < bytes.length) {
    const start = layout.end;
    const fault = readTransaction(bytes, layout);
    if (fault) return refuse(bytes, layout, start, before, fault);
    before = layout.end === start + 8 ? start : null;
  }
  return finished(bytes, layout);
}

function finished(bytes, layout) {
  layout.runningToEnd = crc32(bytes.subarray(layout.covered, layout.end), layout.running);
  return layout;
}

/** What a scan has found out. */
class Layout {
  /** The offset and the length of the current record of each oid, SHELF-11. */
  records = new Map();
  /** The oids that the offset map marks as free, in the order of their chain. */
  free = [];
  /** The first oid that the offset map does not have. */
  firstUnmapped = 0n;
  transactions = 0;
  /** Where the sound part of the file ends. */
  end = 0;
  /** Where the last seal ends, and its checksum. */
  covered = 0;
  running = 0;
  /** The checksum of what that seal does not cover. */
  runningToEnd = 0;
  packedEnd = 0;

  get sealed() {
    return this.transactions > 0 && this.covered === this.end;
  }
}

/** The header, the first transaction and the offset map, SHELF-6 to SHELF-9. */
function readPackedPart(bytes, layout) {
  const start = bytes.length < 16 ? Infinity : 16 + lengthAt(bytes, 8);
  if (start > bytes.length) throw new DamageError("the first transaction extends beyond the end of the file", 8);
  if (start + 24 > bytes.length) throw new DamageError("the file ends where its offset map must be", start);
  const [size, width, count] = [0, 8, 16].map((at) => lengthAt(bytes, start + at));
  const end = start + 8 + size;
  if (width < 1 || width > 8 || size !== 16 + width * count || end > bytes.length) {
    throw new DamageError("the offset map has lengths that do not fit", start);
  }
  const wordOffset = (oid) => start + 24 + oid * width;
  const word = (oid) => {
    let value = 0n;
    for (const byte of bytes.subarray(wordOffset(oid), wordOffset(oid) + width)) value = (value << 8n) | BigInt(byte);
    return Number(value);
  };
  for (let oid = 0; oid < count; oid++) {
    const offset = word(oid);
    if (offset >= start) continue;
    const entry = offset < 16 ? null : entryAt(bytes, offset, start);
    const isThere = entry && entry.oid === BigInt(oid);
    layout.records.set(BigInt(oid), isThere ? entry.place : wrongPlace(oid, offset)); // SHELF-8
  }
  for (let oid = count - 1; oid >= 0; ) {
    layout.free.push(BigInt(oid));
    const next = word(oid) - start;
    if (next === count - 1) break;
    if (next < 0 || next >= oid || word(next) < start) throw new DamageError("the chain of free oids is broken", wordOffset(oid));
    oid = next;
  }
  layout.firstUnmapped = BigInt(count);
  layout.packedEnd = layout.end = end;
}

/** The object entry at an offset, which has to end at `limit` at the latest; null if it is unsound. */
function entryAt(bytes, offset, limit) {
  if (offset + 16 > limit) return null;
  const end = offset + 8 + lengthAt(bytes, offset);
  if (end > limit || end < offset + 16) return null;
  const oid = bytes.readBigUInt64BE(offset + 8);
  const place = { offset: offset + 16, length: end - offset - 16 };
  if (!isSoundRecord(bytes.subarray(place.offset, end), oid)) return null;
  return { oid, place, end };
}

function isSoundRecord(record, oid) {
  try {
    return splitRecord(record).oid === oid;
  } catch (error) {
    if (error instanceof MalformedRecordError) return false;
    throw error;
  }
}

/**
 * The entries of the transaction at an offset.
 *
 * @returns {{end, entries, seal, fault}} `fault` is null, or says what is unsound, and at which offset.
 * Whether the checksum of the seal is right is not looked at.
 */
function transactionAt(bytes, start) {
  const found = { end: Infinity, entries: [], seal: null, fault: null };
  const unsound = (what, offset = start) => ({ ...found, fault: { what, offset } });
  if (start + 8 > bytes.length) return unsound("the file ends inside the length of a transaction");
  found.end = start + 8 + lengthAt(bytes, start);
  if (found.end > bytes.length) return unsound("a transaction extends beyond the end of the file");
  for (let at = start + 8; at < found.end; ) {
    const entry = entryAt(bytes, at, found.end);
    if (!entry) return unsound("a transaction has an entry that does not fit", at);
    if (entry.oid === SEAL_OID) {
      const seal = sealAt(bytes, at);
      if (!seal || entry.end !== found.end) return unsound("a transaction has an unsound seal", at);
      found.seal = { ...seal, offset: at };
    } else if (entry.end === at + SEAL_SIZE && hasSealBody(bytes, at)) {
      return unsound("a transaction has a seal that lost its oid", at);
    }
    found.entries.push(entry);
    at = entry.end;
  }
  return found;
}

/** Read the transaction at the end of the layout into it; returns what is wrong with it, or null. */
function readTransaction(bytes, layout) {
  const { end, entries, seal, fault } = transactionAt(bytes, layout.end);
  if (fault) return fault;
  if (seal) {
    if (checksumFor(bytes, seal.offset, layout.covered, layout.running) !== seal.checksum) {
      return { what: "the checksum of a transaction does not match its bytes", offset: layout.end };
    }
    layout.covered = end;
    layout.running = seal.checksum;
  }
  for (const { oid, place } of entries) {
    if (oid < FIRST_RESERVED_OID) layout.records.set(oid, place);
  }
  layout.transactions += 1;
  layout.end = end;
  return null;
}

/** An unsound transaction is an incomplete tail, or damage if something was committed after it, SHELF-24. */
function refuse(bytes, layout, start, before, fault) {
  if (hasSealAfter(bytes, start) || isLoneSeal(bytes, start) || (before === null && isFollowed(bytes, start))) {
    throw new DamageError(fault.what, fault.offset);
  }
  const tail = before ?? start;
  if (before !== null) {
    layout.transactions -= 1;
    layout.end = before;
  }
  const error = new UnsoundTailError(`${fault.what}, as after a crash; it can be cut off with repair`, tail);
  throw Object.assign(error, { layout: finished(bytes, layout) });
}

function isLoneSeal(bytes, start) {
  return start + 8 + SEAL_SIZE <= bytes.length && lengthAt(bytes, start) === SEAL_SIZE && sealAt(bytes, start + 8) !== null;
}

function isFollowed(bytes, start) {
  if (start + 8 > bytes.length) return false;
  for (let next = start + 8 + lengthAt(bytes, start); next < bytes.length; ) {
    const { end, entries, fault } = transactionAt(bytes, next);
    if (fault) return false;
    if (entries.length) return true;
    next = end;
  }
  return false;
}

/** What else is wrong with a sound file: blocks that differ from the block table, SHELF-45. */
export function checkBlocks(bytes, layout) {
  const cover = transactionAt(bytes, layout.packedEnd);
  if (cover.fault || cover.entries.length !== 1 || !cover.seal) return [];
  const table = cover.end + 8 <= bytes.length ? entryAt(bytes, cover.end + 8, bytes.length) : null;
  if (!table || table.oid !== TABLE_OID) return [];
  const packed = bytes.subarray(0, layout.packedEnd);
  const sums = [packed];
  for (let at = 0; at < packed.length; at += BLOCK) sums.push(packed.subarray(at, at + BLOCK));
  const expected = blockTable(sums.map((block) => crc32(block)));
  const found = bytes.subarray(cover.end + 8, table.end);
  if (found.length !== expected.length || !found.subarray(0, 79).equals(expected.subarray(0, 79))) {
    return [new DamageError("this is not the block table of the packed part", cover.end + 8)];
  }
  return sums.flatMap((_, i) => {
    const same = found.readUInt32BE(79 + 4 * i) === expected.readUInt32BE(79 + 4 * i);
    return same ? [] : [new DamageError("a block differs from its checksum", i ? BLOCK * (i - 1) : cover.end + 8)];
  });
}

/** The entry of a block table with these checksums: that of the packed part, and those of its blocks. */
function blockTable(sums) {
  const size = 4 * sums.length;
  const bytes = Buffer.alloc(81 + size);
  bytes.writeBigUInt64BE(BigInt(73 + size));
  bytes.writeBigUInt64BE(TABLE_OID, 8);
  bytes.writeBigUInt64BE(TABLE_OID, 16);
  bytes.writeUInt32BE(53 + size, 24);
  bytes.write("\x80\x02cdurus.persistent\nPersistent\n.\x80\x03}X\x06\0\0\0blocksB", 28, "latin1");
  bytes.writeUInt32LE(size, 75);
  sums.forEach((sum, i) => bytes.writeUInt32BE(sum, 79 + 4 * i));
  bytes.write("s.", 79 + size, "latin1");
  return bytes;
}

/**
 * The bytes that a commit of these records appends, SHELF-12.
 *
 * @returns {{bytes, places, running}} `places` are the offsets and lengths of the records
 */
export function commitBytes(records, layout) {
  const places = new Map();
  const parts = [];
  let at = layout.end + 8;
  for (const [oid, record] of records) {
    parts.push(u64(8 + record.length), u64(oid), record);
    places.set(oid, { offset: at + 16, length: record.length });
    at += 16 + record.length;
  }
  const { bytes, checksum } = sealedTransaction(Buffer.concat(parts), layout.end, layout.running);
  return { bytes, places, running: checksum, covered: layout.end + bytes.length };
}

/** What must be appended and made durable before the first commit: a seal of what none covers, SHELF-17. */
export function coverBytes(layout) {
  if (layout.covered === layout.end) return null;
  const { bytes, checksum } = sealedTransaction(Buffer.alloc(0), layout.end, layout.runningToEnd);
  return { bytes, places: new Map(), running: checksum, covered: layout.end + bytes.length };
}

/** New oids: first those of the chain of holes, then upwards; none that has a record, SHELF-52. */
export function* newOids(layout) {
  for (const oid of layout.free) if (!layout.records.has(oid)) yield oid;
  for (let oid = layout.firstUnmapped; ; oid++) if (!layout.records.has(oid)) yield oid;
}
