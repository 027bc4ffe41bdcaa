/**
 * Records: one object as bytes. Statements REC-4 to REC-17, REC-30 and REC-32.
 */

import { inflateSync } from "node:zlib";
import { joinOids, sortedOids, splitOids, u32, u64 } from "./bytes.js";
import { MalformedRecordError, StateError, UnstorableError } from "./errors.js";
import { PickleReader } from "./pickle_reader.js";
import { PickleWriter } from "./pickle_writer.js";
import { Global, Ref, Tuple } from "./values.js";

export const ROOT_OID = 0n;
/** The oids from here up belong to the storage, REC-3. */
export const FIRST_RESERVED_OID = 2n ** 64n - 256n;

const HEAD = 12;
const ZLIB = 0x78;
const STOP = 0x2e;
const MAX_INFLATED = Number(process.env.DURUS_MAX_STATE ?? 64 * 2 ** 20);

/** Split a record into its oid, its data, and the oids that it refers to, REC-4. */
export function splitRecord(record) {
  const length = record.length < HEAD ? 0 : record.readUInt32BE(8);
  const refs = record.length - HEAD - length;
  if (length === 0 || refs < 0 || refs % 8) {
    throw new MalformedRecordError(`a record of ${record.length} bytes has lengths that do not fit`);
  }
  return {
    oid: record.readBigUInt64BE(0),
    data: record.subarray(HEAD, HEAD + length),
    refs: splitOids(record.subarray(HEAD + length)),
  };
}

/**
 * Read a record: its oid, class (a Global), state (values.js) and refs.
 *
 * @param {(ref: Ref) => unknown} [toObject] what represents a reference in the state; the Ref itself if not given
 */
export function readRecord(record, toObject = (ref) => ref) {
  const { oid, data, refs } = splitRecord(record);
  try {
    const reader = new PickleReader((id) => toObject(makeRef(id)));
    const { value: className, end } = reader.read(data);
    if (!(className instanceof Global)) throw new StateError("the first pickle is not that of a class");
    const statePickle = plainState(data.subarray(end));
    const { value: state, end: stateEnd } = reader.read(statePickle);
    if (stateEnd < statePickle.length) throw new StateError("bytes follow the state"); // PICKLE-1
    return { oid, className, state, refs };
  } catch (error) {
    if (!(error instanceof StateError)) throw error;
    throw new StateError(`oid ${oid}: ${error.message}`, { cause: error });
  }
}

/**
 * Make the record of an object.
 *
 * @param {(value: object) => unknown} [toRef] the Ref of a value that is stored as a reference, anything else for others
 */
export function makeRecord(oid, className, state, toRef = (value) => value) {
  const { module, name } = Global.of(className);
  const classPickle = Buffer.concat([
    Buffer.from([0x80, 4, 0x63]), Buffer.from(`${module}\n${name}\n`), Buffer.from([STOP]),
  ]);
  const refs = new Set();
  const statePickle = new PickleWriter((value) => {
    const ref = toRef(value);
    if (!(ref instanceof Ref)) return undefined;
    refs.add(ref.oid);
    return Tuple.of(u64(ref.oid), Global.of(ref.className));
  }).write(state);
  refs.delete(oid);
  const length = classPickle.length + statePickle.length;
  if (length >= 2 ** 32) throw new UnstorableError(`the state of oid ${oid} has ${length} bytes, which is too large`);
  return Buffer.concat([u64(oid), u32(length), classPickle, statePickle, joinOids(sortedOids(refs))]);
}

function makeRef(id) {
  if (!(id instanceof Tuple) || id.length !== 2 || !Buffer.isBuffer(id[0]) || id[0].length !== 8) {
    throw new StateError("a reference is not a pair of an oid and a class");
  }
  if (!(id[1] instanceof Global)) throw new StateError("a reference has something else in place of a class");
  return new Ref(id[0].readBigUInt64BE(), id[1]);
}

/** The state pickle, decompressed if it is a zlib stream with nothing after it, REC-13, within the limit of REC-30. */
function plainState(bytes) {
  if (bytes[0] !== ZLIB) return bytes;
  try {
    const { buffer, engine } = inflateSync(bytes, { maxOutputLength: Math.max(MAX_INFLATED, 100 * bytes.length), info: true });
    if (engine.bytesWritten < bytes.length) throw new StateError("bytes follow the compressed state"); // PICKLE-1
    return buffer;
  } catch (error) {
    if (error instanceof StateError) throw error;
    if (error.code === "ERR_BUFFER_TOO_LARGE") throw new StateError("the compressed state expands to too many bytes");
    return bytes;
  }
}
