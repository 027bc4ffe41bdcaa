/**
 * Integers as bytes, the most significant byte first. An oid is a u64 and held as a BigInt; lengths
 * and offsets are numbers, and a length that no number can hold is Infinity, so it never fits.
 * Also what the bytes of a file are whose creation was interrupted.
 */

export function u32(value) {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

export function u64(value) {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
}

/** The u64 at an offset, as a length: a number, or Infinity if it is too large for one. */
export function lengthAt(bytes, offset) {
  const value = bytes.readBigUInt64BE(offset);
  return value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : Infinity;
}

/** The oids that follow one another in bytes. */
export function splitOids(bytes) {
  const oids = [];
  for (let at = 0; at < bytes.length; at += 8) oids.push(bytes.readBigUInt64BE(at));
  return oids;
}

export function joinOids(oids) {
  return Buffer.concat(Array.from(oids, u64));
}

/** Ascending, as the bytes of the oids are. */
export function sortedOids(oids) {
  return Array.from(oids).sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
}

/** Whether these bytes are the beginning of `whole`, or as many zeros, as a crash leaves a file that is being created. */
export function isUnfinishedCopy(bytes, whole) {
  return bytes.length <= whole.length
    && !bytes.equals(whole)
    && (bytes.equals(whole.subarray(0, bytes.length)) || bytes.every((byte) => byte === 0));
}
