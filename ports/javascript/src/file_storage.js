/**
 * A storage in a file of either kind. The only module that opens a database's file.
 *
 * The whole file is read when it is opened, for its checksums; after that, records are read where
 * they are. Statements SHELF-18 to SHELF-28 and SHELF-47, which hold for both kinds.
 */

import { spawnSync } from "node:child_process";
import fs from "node:fs";
import { dirname, resolve } from "node:path";
import * as dfs20 from "./dfs20.js";
import { FormatError, StorageError, UnsoundTailError } from "./errors.js";
import { FIRST_RESERVED_OID, splitRecord } from "./record.js";
import * as shelf from "./shelf.js";
import { NOTHING_CHANGED } from "./storage.js";

const FORMATS = [shelf, dfs20];
const STORED = { stored: true, conflicts: [], invalid: NOTHING_CHANGED };

export class FileStorage {
  /**
   * @param {string} path
   * @param {{readonly?: boolean, repair?: boolean, mustExist?: boolean, format?: "SHELF-1"|"DFS20"}} options
   * `repair` cuts an incomplete tail off, and `format` is that of a new file
   */
  constructor(path, { readonly = false, repair = false, mustExist = false, format = shelf.NAME } = {}) {
    this.path = resolve(path);
    this.readonly = readonly;
    this.fd = this.openFile(readonly || mustExist);
    try {
      if (!readonly) this.lock();
      this.read(repair, FORMATS.find(({ NAME }) => NAME === format));
    } catch (error) {
      this.closeFile();
      throw error;
    }
  }

  openFile(mustExist) {
    const { O_RDONLY, O_RDWR, O_CREAT } = fs.constants;
    try {
      return fs.openSync(this.path, this.readonly ? O_RDONLY : mustExist ? O_RDWR : O_RDWR | O_CREAT, 0o666);
    } catch (error) {
      throw new StorageError(`${this.path} can't be opened: ${error.message}`, { cause: error });
    }
  }

  /**
   * Take the exclusive flock, SHELF-21. Node has no call for it; the program flock takes it for the
   * descriptor that it inherits, and the lock stays until this process closes the file.
   */
  lock() {
    const { status, error } = spawnSync("flock", ["-n", "-x", "3"], { stdio: ["ignore", "ignore", "ignore", this.fd] });
    if (error) throw new StorageError("the program flock (of util-linux), which locks the file, can't be run");
    if (status !== 0) throw new StorageError(`${this.path} is in use by another program`);
    this.makeSureOfName();
  }

  makeSureOfName() {
    const own = fs.fstatSync(this.fd, { bigint: true });
    const named = fs.statSync(this.path, { bigint: true, throwIfNoEntry: false });
    if (!named || named.ino !== own.ino || named.dev !== own.dev) {
      throw new StorageError(`${this.path} is no longer the name of the file that was opened`);
    }
  }

  read(repair, newFormat) {
    let bytes = readAll(this.fd);
    if (FORMATS.some((format) => format.isUnfinished(bytes))) {
      if (this.readonly) throw new FormatError(`${this.path} is empty: open it for writing once`);
      if (bytes.length >= 6) newFormat = FORMATS.find(({ MAGIC }) => bytes.subarray(0, 6).equals(MAGIC.subarray(0, 6))) ?? newFormat;
      bytes = newFormat.newFile();
      fs.ftruncateSync(this.fd, 0);
      writeAll(this.fd, bytes, 0);
    }
    this.format = FORMATS.find(({ MAGIC }) => bytes.subarray(0, MAGIC.length).equals(MAGIC));
    if (!this.format) throw new FormatError(`${this.path} is not a SHELF-1 or DFS20 file`);
    this.layout = this.scan(bytes, repair);
    this.oids = this.format.newOids(this.layout);
    if (!this.readonly) this.makeDurable();
  }

  scan(bytes, repair) {
    try {
      return this.format.scan(bytes);
    } catch (error) {
      if (!(error instanceof UnsoundTailError) || (!repair && !this.readonly)) throw error;
      if (this.readonly) process.emitWarning(`${this.path}: ${error.message}; read up to there`);
      else this.cutOff(bytes, error.layout.end);
      return error.layout;
    }
  }

  /** Keep the bytes of the tail in a file beside the database, then truncate, SHELF-26. */
  cutOff(bytes, end) {
    const { mode } = fs.fstatSync(this.fd);
    for (let number = 0; ; number++) {
      const name = `${this.path}.cut-${end}${number ? `-${number}` : ""}`;
      if (fs.existsSync(name)) continue;
      const fd = fs.openSync(name, "wx", mode & 0o777);
      writeAll(fd, bytes.subarray(end), 0);
      fs.fsyncSync(fd);
      fs.closeSync(fd);
      break;
    }
    syncFolder(this.path);
    fs.ftruncateSync(this.fd, end);
    fs.fsyncSync(this.fd);
  }

  /** What was read may not be durable yet, SHELF-22. */
  makeDurable() {
    fs.fsyncSync(this.fd);
    syncFolder(this.path);
  }

  async load(oid) {
    this.makeSureOfUse();
    const place = this.layout.records.get(oid);
    if (!place) return null;
    if (place.fault) throw place.fault;
    const record = Buffer.alloc(place.length);
    if (fs.readSync(this.fd, record, 0, place.length, place.offset) !== place.length) {
      throw new StorageError(`${this.path} has become shorter`);
    }
    return record;
  }

  async newOids(count) {
    return Array.from({ length: count }, () => this.oids.next().value);
  }

  /** Nobody else can change a file that is locked, and a reader shows the state that it has opened. */
  async sync() {
    return NOTHING_CHANGED;
  }

  /** Append records, by oid, as one transaction. They are durable when this returns. */
  async commit({ records }) {
    this.makeSureOfUse();
    if (this.readonly) throw new StorageError(`${this.path} was opened for reading only`);
    const missing = new Set();
    for (const [oid, record] of records) {
      const { oid: own, refs } = splitRecord(record);
      if (own !== oid || oid >= FIRST_RESERVED_OID) throw new StorageError(`the record of oid ${own} can't be stored as oid ${oid}`); // REC-6
      for (const ref of refs) if (!records.has(ref) && !this.layout.records.has(ref)) missing.add(ref);
    }
    if (missing.size) return { ...STORED, stored: false, conflicts: [...missing] }; // TXN-10
    const cover = this.format.coverBytes(this.layout);
    if (cover) this.append(cover);
    this.append(this.format.commitBytes(records, this.layout));
    return STORED;
  }

  append({ bytes, places, running, covered }) {
    if (fs.fstatSync(this.fd).size !== this.layout.end) {
      throw new StorageError(`${this.path} was changed by another program`);
    }
    let failed = "write";
    try {
      writeAll(this.fd, bytes, this.layout.end);
      failed = "fsync";
      fs.fsyncSync(this.fd);
      failed = "name";
      this.makeSureOfName();
    } catch (error) {
      this.takeBack(failed);
      throw error instanceof StorageError ? error : new StorageError(`the commit can't be stored: ${error.message}`, { cause: error });
    }
    for (const [oid, place] of places) this.layout.records.set(oid, place);
    Object.assign(this.layout, { running, covered, end: this.layout.end + bytes.length });
  }

  /** Cut off what a failed commit has written; if that fails, or an fsync did, accept no more, SHELF-20. */
  takeBack(failed) {
    if (failed === "fsync") this.unusable = "an fsync failed";
    try {
      fs.ftruncateSync(this.fd, this.layout.end);
      fs.fsyncSync(this.fd);
    } catch (error) {
      this.unusable = `a failed commit could not be cut off: ${error.message}`;
    }
  }

  makeSureOfUse() {
    if (this.fd === null) throw new StorageError("the storage is closed");
    if (this.unusable) throw new StorageError(`open ${this.path} again: ${this.unusable}`);
  }

  /** A pack of a file is left to the program durus. */
  async pack() {
    throw new StorageError("this port does not pack files: run durus pack");
  }

  async close() {
    this.closeFile();
  }

  closeFile() {
    if (this.fd !== null) fs.closeSync(this.fd);
    this.fd = null;
  }
}

/** What `durus check` looks for in the bytes of a file: an array of errors, empty if it is sound. */
export function checkFile(path) {
  const bytes = fs.readFileSync(path);
  const format = FORMATS.find(({ MAGIC }) => bytes.subarray(0, MAGIC.length).equals(MAGIC));
  if (!format) return [new FormatError(`${path} is not a SHELF-1 or DFS20 file`)];
  try {
    const layout = format.scan(bytes);
    const places = Array.from(layout.records.values(), ({ fault }) => fault ?? []).flat();
    return [...places, ...format.checkBlocks(bytes, layout)];
  } catch (error) {
    return [error];
  }
}

function readAll(fd) {
  const bytes = Buffer.alloc(fs.fstatSync(fd).size);
  for (let at = 0; at < bytes.length; ) {
    const count = fs.readSync(fd, bytes, at, bytes.length - at, at);
    if (count === 0) return bytes.subarray(0, at);
    at += count;
  }
  return bytes;
}

function writeAll(fd, bytes, offset) {
  for (let at = 0; at < bytes.length; ) at += fs.writeSync(fd, bytes, at, bytes.length - at, offset + at);
}

function syncFolder(path) {
  const fd = fs.openSync(dirname(path), "r");
  fs.fsyncSync(fd);
  fs.closeSync(fd);
}
