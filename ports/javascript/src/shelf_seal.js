/**
 * Seals: the last entry of a transaction, with a checksum of all bytes since the seal before.
 * Statements SHELF-12 to SHELF-15 and SHELF-25.
 */

import { crc32 } from "node:zlib";
import { u64 } from "./bytes.js";

export const SEAL_OID = 2n ** 64n - 1n;
export const SEAL_SIZE = 132;
/** The checksum covers the seal up to this byte, where it begins. */
const CHECKSUM_AT = 122;

const HEAD = Buffer.from("000000000000007c" + "ff".repeat(16), "hex");
/** The bytes 24 to 76, which an entry of another oid must not have, SHELF-14. */
const FIXED = Buffer.from("\0\0\0\x68\x80\x02cdurus.persistent\nPersistent\n.\x80\x02}X\x04\0\0\0sealX5\0\0\0", "latin1");
const TEXT = /^([0-9a-f]{16}) (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) ([0-9a-f]{8})s\.$/;

/** The seal at an offset: its time and checksum, or null if no seal of the right layout is there. */
export function sealAt(bytes, offset) {
  if (bytes.length < offset + SEAL_SIZE) return null;
  if (!bytes.subarray(offset, offset + 24).equals(HEAD) || !hasSealBody(bytes, offset)) return null;
  const match = TEXT.exec(bytes.toString("latin1", offset + 77, offset + SEAL_SIZE));
  if (!match || parseInt(match[1], 16) !== offset) return null;
  return { time: match[2], checksum: parseInt(match[3], 16) };
}

export function hasSealBody(bytes, offset) {
  return bytes.subarray(offset + 24, offset + 77).equals(FIXED);
}

/** The checksum that the seal at an offset must have; `covered` is where the seal before ends. */
export function checksumFor(bytes, offset, covered, running) {
  return crc32(bytes.subarray(covered, offset + CHECKSUM_AT), running);
}

/** Whether a seal begins after `start` and ends before the end of the bytes. */
export function hasSealAfter(bytes, start) {
  for (let at = bytes.indexOf(HEAD, start + 1); at >= 0; at = bytes.indexOf(HEAD, at + 1)) {
    if (at + SEAL_SIZE < bytes.length && sealAt(bytes, at)) return true;
  }
  return false;
}

/**
 * The bytes of a transaction that holds some entries and a seal, for appending at `offset`.
 * `running` is the checksum of all bytes before it that no seal covers yet.
 */
export function sealedTransaction(entries, offset, running, now = new Date()) {
  const length = entries.length + SEAL_SIZE;
  const sealOffset = offset + 8 + entries.length;
  const time = `${now.toISOString().slice(0, -1)}000Z`;
  const place = sealOffset.toString(16).padStart(16, "0");
  const front = Buffer.concat([u64(length), entries, HEAD, FIXED, Buffer.from(`${place} ${time} `)]);
  const checksum = crc32(front, running);
  return { bytes: Buffer.concat([front, Buffer.from(`${checksum.toString(16).padStart(8, "0")}s.`)]), checksum };
}
