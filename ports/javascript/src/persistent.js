/**
 * Persistent objects: what a connection loads, and what its commits store. Statements OBJ-3 to OBJ-9.
 *
 * JavaScript can't wait for a load while an attribute is read. So a reference leads to a ghost, and
 * `await object.load()` gives it its state. Reading or setting `state` is an access, TXN-2.
 */

import { GhostError } from "./errors.js";
import { Global } from "./values.js";

export const UNSAVED = 1;
export const SAVED = 0;
export const GHOST = -1;

export class PersistentObject {
  #state;

  /** A new object of a class of Python, `"module name"`. A commit stores it when a stored object refers to it. */
  constructor(className, state) {
    this.className = Global.of(className);
    this.status = UNSAVED;
    this.oid = null;
    this.connection = null;
    this.#state = state;
  }

  /** Load the state, if it is not in memory; returns this object. Not an access. */
  async load() {
    if (this.status === GHOST) await this.connection.loadObject(this);
    return this;
  }

  /** The state: for a class without a `__getstate__` of its own, a Map of its attributes. */
  get state() {
    if (this.status === GHOST) throw new GhostError(`the state of oid ${this.oid} is not loaded: await object.load()`);
    this.connection?.noteAccess(this);
    return this.#state;
  }

  /** Replace the whole state; needs no load. */
  set state(state) {
    this.#state = state;
    this.noteChange();
  }

  /** Tell that the state, or something in it, has changed: it is not noticed otherwise, OBJ-8. */
  noteChange() {
    this.connection?.noteChange(this);
    this.status = UNSAVED;
  }

  /** The state, after `noteChange()`. */
  get changing() {
    const { state } = this;
    this.noteChange();
    return state;
  }

  /** For the connection: the state, without an access. */
  peek() {
    return this.#state;
  }

  /** For the connection. */
  becomeGhost() {
    this.status = GHOST;
    this.#state = undefined;
  }

  /** For the connection. */
  receive(state, className) {
    this.#state = state;
    this.className = className;
    this.status = SAVED;
  }
}

/** `durus.persistent_dict PersistentDict`. */
export class PersistentDict extends PersistentObject {
  constructor(entries = []) {
    super("durus.persistent_dict PersistentDict", new Map([["data", new Map(entries)]]));
  }

  get data() {
    return this.state.get("data");
  }

  get size() {
    return this.data.size;
  }

  get(key) {
    return this.data.get(key);
  }

  has(key) {
    return this.data.has(key);
  }

  set(key, value) {
    this.changing.get("data").set(key, value);
    return this;
  }

  delete(key) {
    return this.changing.get("data").delete(key);
  }

  [Symbol.iterator]() {
    return this.data.entries();
  }
}

/** `durus.persistent_list PersistentList`. */
export class PersistentList extends PersistentObject {
  constructor(items = []) {
    super("durus.persistent_list PersistentList", new Map([["data", Array.from(items)]]));
  }

  get data() {
    return this.state.get("data");
  }

  get length() {
    return this.data.length;
  }

  at(index) {
    return this.data.at(index);
  }

  set(index, value) {
    this.changing.get("data")[index] = value;
  }

  push(...values) {
    return this.changing.get("data").push(...values);
  }

  splice(...args) {
    return this.changing.get("data").splice(...args);
  }

  [Symbol.iterator]() {
    return this.data.values();
  }
}

/** `durus.persistent_set PersistentSet`. */
export class PersistentSet extends PersistentObject {
  constructor(items = []) {
    super("durus.persistent_set PersistentSet", new Map([["s", new Set(items)]]));
  }

  get data() {
    return this.state.get("s");
  }

  get size() {
    return this.data.size;
  }

  has(value) {
    return this.data.has(value);
  }

  add(value) {
    this.changing.get("s").add(value);
    return this;
  }

  delete(value) {
    return this.changing.get("s").delete(value);
  }

  [Symbol.iterator]() {
    return this.data.values();
  }
}

const CLASSES = new Map([PersistentDict, PersistentList, PersistentSet].map((made) => [String(new made().className), made]));

/** A ghost for a reference. What is of no class that this module knows is a PersistentObject. */
export function makeGhost(connection, oid, className) {
  const made = CLASSES.get(String(className)) ?? PersistentObject;
  const ghost = Object.setPrototypeOf(new PersistentObject(className), made.prototype);
  ghost.oid = oid;
  ghost.connection = connection;
  ghost.becomeGhost();
  return ghost;
}

/** When an object's record names another class than the reference did, the record is right, OBJ-65. */
export function becomeInstance(object, className) {
  Object.setPrototypeOf(object, (CLASSES.get(String(className)) ?? PersistentObject).prototype);
}
