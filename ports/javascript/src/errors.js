/**
 * All errors of this package. Each is a DurusError, so one `catch` can tell them from others.
 */

export class DurusError extends Error {
  constructor(message, options) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** A record with lengths that do not fit, REC-5. */
export class MalformedRecordError extends DurusError {}

/** A pickle that can't be read, or has a step that this port does not know, REC-17. */
export class StateError extends DurusError {}

/** A value that can't be written as a pickle. */
export class UnstorableError extends DurusError {}

/** The file is of another kind. */
export class FormatError extends DurusError {}

/** Base of the faults of a file that have a place: `offset`, in bytes from its start. */
export class FileFaultError extends DurusError {
  constructor(message, offset) {
    super(`${message} (at offset ${offset})`);
    this.offset = offset;
  }
}

/** The file ends with an incomplete transaction; open it with `repair: true`, SHELF-26. */
export class UnsoundTailError extends FileFaultError {}

/** The file is damaged where a crash can't have done it, SHELF-27. */
export class DamageError extends FileFaultError {}

/** In place of the place of a record, where there is no sound entry of the oid: loading the record raises `fault`. */
export function wrongPlace(oid, offset) {
  return { fault: new DamageError(`there is no sound entry of oid ${oid}`, offset) };
}

/** The storage can't be used so: locked, read only, closed, changed by another program. */
export class StorageError extends DurusError {}

/** Base of the two conflicts. `oids` are those in conflict; abort and run the transaction again. */
export class ConflictError extends DurusError {
  constructor(what, oids) {
    const shown = oids.slice(0, 10).join(", ");
    super(`${what} on ${oids.length} objects (oid ${shown || "unknown"}); abort, and run the transaction again`);
    this.oids = oids;
  }
}

/** What was asked for has changed, and so has something that the transaction has used, TXN-14. */
export class ReadConflictError extends ConflictError {
  constructor(oids) {
    super("read conflict", oids);
  }
}

/** Something that the transaction has used was changed by another client, TXN-13. */
export class WriteConflictError extends ConflictError {
  constructor(oids) {
    super("write conflict", oids);
  }
}

/** The state of this object is not in memory; `await connection.get(object)` loads it. */
export class GhostError extends DurusError {}

/** The connection to the server is lost, or it sent what the protocol does not have, WIRE-25. */
export class LostConnectionError extends DurusError {}

/** The connection was lost during a commit, which is stored completely or not at all, WIRE-25. */
export class UnknownOutcomeError extends LostConnectionError {}

/** The server's answer `E`, WIRE2-40; `code` is the kind of error. */
export class ServerError extends DurusError {
  constructor(code, text) {
    super(`the server refused the request: ${text}`);
    this.code = code;
  }
}
