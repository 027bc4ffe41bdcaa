/**
 * A connection: one program's view of a storage, which it changes in transactions.
 * Statements TXN-1 to TXN-16, OBJ-2 and OBJ-20 to OBJ-23.
 *
 * A transaction runs from one commit or abort to the next. What it accesses is noted; when another
 * client has changed something of that, its commit is a conflict.
 */

import { DurusError, ReadConflictError, StorageError, WriteConflictError } from "./errors.js";
import { GHOST, PersistentDict, PersistentObject, SAVED, UNSAVED, becomeInstance, makeGhost } from "./persistent.js";
import { ROOT_OID, makeRecord, readRecord, splitRecord } from "./record.js";
import { INVALID } from "./storage.js";
import { Global, Ref } from "./values.js";

export class Connection {
  #objects = new Map(); // WeakRefs by oid
  #collected = new FinalizationRegistry((oid) => {
    if (!this.#objects.get(oid)?.deref()) this.#objects.delete(oid);
  });
  /** Loaded objects, those that were used last at the end. */
  #loaded = new Set();
  #changed = new Set();
  #accessed = new Set();
  /** Oids that have changed in the storage, and whose objects are not ghosts yet. */
  #stale = new Set();
  #everythingIsStale = false;
  #spareOids = [];
  #last = Promise.resolve();

  constructor(storage, { cacheSize = 100_000 } = {}) {
    this.storage = storage;
    this.cacheSize = cacheSize;
  }

  /** Make a connection; its first state is that of now, TXN-36. A storage without a root gets one. */
  static async open(storage, options) {
    const connection = new Connection(storage, options);
    try {
      await connection.#loadRoot();
    } catch (error) {
      await storage.close();
      throw error;
    }
    return connection;
  }

  async #loadRoot() {
    for (let tries = 0; tries < 4; tries++) {
      const record = await this.storage.load(ROOT_OID);
      if (Buffer.isBuffer(record)) {
        this.root = this.#objectFor(new Ref(ROOT_OID, readRecord(record).className));
        return this.root.load();
      }
      if (record === null) await this.#makeRoot();
      await this.storage.sync();
    }
    throw new StorageError("the storage has no root");
  }

  /** Another client may make it at the same time; one of the two is first, TXN-24. */
  async #makeRoot() {
    const [oid] = await this.storage.newOids(1);
    if (oid !== ROOT_OID) return this.#spareOids.push(oid);
    const root = new PersistentDict();
    const records = new Map([[oid, makeRecord(oid, root.className, root.peek())]]);
    return this.storage.commit({ accessed: new Set(), records });
  }

  /** The object of an oid, perhaps a ghost. Not an access. */
  objectOf(oid) {
    return this.#objectFor(new Ref(BigInt(oid), UNKNOWN));
  }

  /** The object of an oid, loaded. Not an access. */
  async get(oid) {
    return this.objectOf(oid).load();
  }

  /** Store the changes of the transaction and begin the next one; a WriteConflictError leaves it open. */
  commit() {
    return this.#alone(() => (this.#changed.size ? this.#store() : this.#begin(this.storage.sync())));
  }

  /** Discard the changes of the transaction, and begin the next one at the newest state. */
  abort() {
    return this.#alone(async () => {
      this.#forgetChanges();
      await this.storage.giveUpTurn?.();
      await this.#begin(this.storage.sync());
    });
  }

  /**
   * Run a function as one transaction, again after each conflict. It gets the root. Where the
   * storage has exclusive turns the last try takes one, so it has no conflict.
   */
  async run(work, { tries = 10 } = {}) {
    await this.abort();
    for (let left = tries; ; left--) {
      if (left === 1 && this.storage.takeTurn) await this.#alone(() => this.#begin(this.storage.takeTurn()));
      try {
        const result = await work(await this.root.load());
        await this.commit();
        return result;
      } catch (error) {
        await this.abort();
        if (left === 1 || !(error instanceof ReadConflictError || error instanceof WriteConflictError)) throw error;
      }
      const pause = Math.random() * 2 ** Math.min(tries - left, 6);
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
  }

  /** Ask the storage to remove what the root does not reach. Refused while there are changes, TXN-18. */
  async pack() {
    if (this.#changed.size) throw new DurusError("commit or abort before a pack");
    await this.#alone(() => this.storage.pack());
    await this.abort();
  }

  close() {
    return this.#alone(() => this.storage.close());
  }

  /** Turn all saved objects into ghosts, to save memory. */
  dropStates() {
    for (const object of this.#loaded) if (object.status === SAVED) this.#makeGhost(object);
  }

  // For the objects.

  noteAccess(object) {
    if (object.oid === null) return;
    this.#accessed.add(object.oid);
    this.#loaded.delete(object);
    this.#loaded.add(object);
  }

  noteChange(object) {
    this.noteAccess(object);
    this.#changed.add(object);
  }

  loadObject(object) {
    return this.#alone(async () => {
      if (object.status !== GHOST) return;
      const record = await this.#loadRecord(object.oid);
      const { className, state } = readRecord(record, (ref) => this.#objectFor(ref));
      if (!object.className.is(String(className))) becomeInstance(object, className);
      object.receive(state, className);
      this.#loaded.add(object);
    });
  }

  /** One call at a time: the others wait for it. */
  #alone(call) {
    const result = this.#last.then(call);
    this.#last = result.catch(() => {});
    return result;
  }

  /** The record of an oid, at the state of this transaction, or at a later one if nothing forbids it, TXN-14. */
  async #loadRecord(oid) {
    this.#moveOn(oid);
    let record = await this.storage.load(oid);
    if (record === INVALID) {
      this.#noteInvalid(await this.storage.sync());
      this.#moveOn(oid);
      record = await this.storage.load(oid);
    }
    if (!Buffer.isBuffer(record)) throw new ReadConflictError([oid]);
    return record;
  }

  #moveOn(oid) {
    if (!this.#everythingIsStale && !this.#stale.size) return;
    if (!this.#conflicts().length) this.#dropStale();
    else if (this.#everythingIsStale || this.#stale.has(oid)) throw new ReadConflictError([oid]);
  }

  /** What the transaction has accessed and others have changed. */
  #conflicts() {
    return [...this.#accessed].filter((oid) => this.#everythingIsStale || this.#stale.has(oid));
  }

  #noteInvalid({ everything, oids }) {
    this.#everythingIsStale ||= everything;
    if (everything) this.#spareOids = []; // TXN-41
    for (const oid of oids) this.#stale.add(oid);
  }

  #dropStale() {
    const oids = this.#everythingIsStale ? [...this.#objects.keys()] : this.#stale;
    for (const oid of oids) {
      const object = this.#objects.get(oid)?.deref();
      if (object && object.status !== UNSAVED) this.#makeGhost(object);
    }
    this.#stale = new Set();
    this.#everythingIsStale = false;
  }

  #makeGhost(object) {
    object.becomeGhost();
    this.#loaded.delete(object);
  }

  async #begin(invalid) {
    this.#noteInvalid(await invalid);
    this.#dropStale();
    this.#accessed = new Set();
    this.#shrink();
  }

  #shrink() {
    let excess = this.#loaded.size - this.cacheSize;
    for (const object of this.#loaded) {
      if (excess-- <= 0) break;
      if (object.status === SAVED && object !== this.root) this.#makeGhost(object);
    }
  }

  #forgetChanges() {
    for (const object of this.#changed) this.#makeGhost(object);
    this.#changed = new Set();
  }

  async #store() {
    if (this.#conflicts().length) throw new WriteConflictError(this.#conflicts());
    const fresh = this.#newObjects();
    await this.#reserve(fresh.length);
    const oids = new Map(fresh.map((object, index) => [object, this.#spareOids[index]]));
    const stored = [...this.#changed, ...fresh];
    const records = new Map(stored.map((object) => {
      const oid = object.oid ?? oids.get(object);
      return [oid, this.#recordOf(object, oid, (value) => oids.get(value))];
    }));
    const { conflicts } = await this.#send(stored, records);
    if (conflicts) throw new WriteConflictError(conflicts);
    this.#spareOids.splice(0, fresh.length);
    for (const [object, oid] of oids) this.#adopt(object, oid);
    if (!this.#conflicts().length) this.#dropStale();
    this.#shrink();
  }

  /** Have the storage commit. A change or an access from here on belongs to the next transaction, TXN-37. */
  async #send(stored, records) {
    const [changed, accessed] = [this.#changed, this.#accessed];
    this.#changed = new Set();
    this.#accessed = new Set();
    for (const object of stored) object.status = SAVED;
    let done = false;
    try {
      const outcome = await this.storage.commit({ accessed, records });
      this.#noteInvalid(outcome.invalid);
      done = outcome.stored;
      return { conflicts: done ? null : outcome.conflicts };
    } finally {
      if (!done) {
        for (const object of stored) object.status = UNSAVED;
        for (const object of changed) this.#changed.add(object);
        for (const oid of accessed) this.#accessed.add(oid);
      }
    }
  }

  #adopt(object, oid) {
    object.oid = oid;
    object.connection = this;
    this.#remember(object);
    this.#loaded.add(object);
    if (object.status === UNSAVED) this.#changed.add(object);
  }

  async #reserve(count) {
    const missing = count - this.#spareOids.length;
    if (missing > 0) this.#spareOids.push(...(await this.storage.newOids(missing)));
  }

  #recordOf(object, oid, oidOfNew) {
    return makeRecord(oid, object.className, object.peek(), (value) => {
      if (!(value instanceof PersistentObject)) return value;
      if (value.connection !== null && value.connection !== this) {
        throw new DurusError(`oid ${oid} refers to oid ${value.oid} of another connection`); // TXN-11
      }
      return new Ref(value.oid ?? oidOfNew(value), value.className);
    });
  }

  /** The new objects that the changed ones reach, directly or through other new ones, TXN-8. */
  #newObjects() {
    const found = new Set();
    const note = (object) => found.add(object) && ROOT_OID;
    for (const object of this.#changed) this.#recordOf(object, object.oid, note);
    for (const object of found) this.#recordOf(object, ROOT_OID, note); // the set grows meanwhile
    return [...found];
  }

  #objectFor({ oid, className }) {
    const known = this.#objects.get(oid)?.deref();
    if (known) return known;
    return this.#remember(makeGhost(this, oid, className));
  }

  #remember(object) {
    this.#objects.set(object.oid, new WeakRef(object));
    this.#collected.register(object, object.oid);
    return object;
  }
}

/** The class of an object that was asked for by its oid, until its record is read. */
const UNKNOWN = new Global("durus.persistent", "PersistentObject");
