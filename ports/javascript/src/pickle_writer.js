/**
 * Pickles of protocol 4, as Python programs read them: the opposite of pickle_reader.js.
 *
 * Values that occur more than once are written once (BINGET), so a list that two dicts share is
 * still shared when Python has read it.
 */

import { StateError, UnstorableError } from "./errors.js";
import { Keys } from "./keys.js";
import { encodeUtf8 } from "./utf8.js";
import { Float, FrozenSet, Global, PythonObject, Tuple } from "./values.js";

export class PickleWriter {
  /** @param {(value: object) => unknown} persistentId the id of a reference, undefined for other objects */
  constructor(persistentId) {
    this.persistentId = persistentId;
    this.parts = [];
    this.memo = new Map();
    this.path = [];
  }

  write(value) {
    this.code("\x80\x04");
    this.save(value);
    this.code(".");
    return Buffer.concat(this.parts);
  }

  code(text) {
    this.parts.push(Buffer.from(text, "latin1"));
  }

  /** A value with its length before it, by the shortest of the opcodes for 1, 4 and 8 bytes. */
  sized(bytes, [one, four, eight]) {
    const head = Buffer.alloc(9);
    if (bytes.length < 2 ** 8) {
      head.writeUInt8(bytes.length, 1);
      this.opcode(one, head, 2);
    } else if (bytes.length < 2 ** 32) {
      head.writeUInt32LE(bytes.length, 1);
      this.opcode(four, head, 5);
    } else {
      head.writeBigUInt64LE(BigInt(bytes.length), 1);
      this.opcode(eight, head, 9);
    }
    this.parts.push(bytes);
  }

  opcode(letter, head, length) {
    head[0] = letter.charCodeAt(0);
    this.parts.push(head.subarray(0, length));
  }

  save(value) {
    switch (typeof value) {
      case "boolean":
        return this.code(value ? "\x88" : "\x89");
      case "number":
        return this.saveNumber(value);
      case "bigint":
        return this.saveInteger(value);
      case "string":
        return this.once(value, () => this.sized(encodeUtf8(value), ["\x8c", "X", "\x8d"]));
      case "object":
        return value === null ? this.code("N") : this.saveObject(value);
      default:
        return this.refuse(`a ${typeof value} has no counterpart in Python`);
    }
  }

  refuse(reason) {
    throw new UnstorableError(`${reason}, at ${this.path.join("") || "the state itself"}`);
  }

  within(step, value) {
    this.path.push(step);
    this.save(value);
    this.path.pop();
  }

  saveNumber(value) {
    if (Number.isSafeInteger(value) && !Object.is(value, -0)) return this.saveInteger(BigInt(value));
    const bytes = Buffer.alloc(9);
    bytes.write("G", "latin1");
    bytes.writeDoubleBE(value, 1);
    this.parts.push(bytes);
  }

  saveInteger(value) {
    if (value >= -(2n ** 31n) && value < 2n ** 31n) {
      const bytes = Buffer.alloc(5);
      bytes.write("J", "latin1");
      bytes.writeInt32LE(Number(value), 1);
      this.parts.push(bytes);
      return;
    }
    const bytes = [];
    for (let rest = value; rest !== 0n && rest !== -1n; rest >>= 8n) bytes.push(Number(rest & 0xffn));
    if (value >= 0n ? bytes.at(-1) & 0x80 : !(bytes.at(-1) & 0x80)) bytes.push(value < 0n ? 0xff : 0);
    const length = Buffer.alloc(4);
    length.writeUInt32LE(bytes.length);
    this.parts.push(Buffer.from(bytes.length < 256 ? [0x8a, bytes.length] : [0x8b, ...length]), Buffer.from(bytes));
  }

  /** Save a value the first time, and get it from the memo after that. */
  once(value, save) {
    if (this.memo.has(value)) return this.fetch(value);
    save();
    return this.memoize(value);
  }

  memoize(value) {
    this.memo.set(value, this.memo.size);
    this.code("\x94");
  }

  fetch(value) {
    const bytes = Buffer.alloc(5);
    bytes.write("j", "latin1");
    bytes.writeUInt32LE(this.memo.get(value), 1);
    this.parts.push(bytes);
  }

  /** Refuse keys that are one key in Python, or none, PICKLE-14. */
  checkKeys(container, keys) {
    const known = new Keys();
    for (const key of keys) {
      let held;
      try {
        held = known.heldBy(container, key);
      } catch (error) {
        if (!(error instanceof StateError)) throw error;
        this.refuse(error.message);
      }
      if (!Object.is(held, key)) this.refuse(`two keys that are equal in Python, ${String(held)} and ${String(key)}`);
    }
  }

  saveObject(value) {
    const id = this.persistentId(value);
    if (id !== undefined) {
      this.save(id[0]);
      this.save(id[1]);
      return this.code("\x86Q");
    }
    if (this.memo.has(value)) return this.fetch(value);
    if (value instanceof Set || value instanceof Map) this.checkKeys(value, value.keys());
    if (value instanceof Float) return this.saveFloat(value);
    if (value instanceof Uint8Array) return this.once(value, () => this.sized(value, ["C", "B", "\x8e"]));
    if (value instanceof Tuple) return this.saveTuple(value);
    if (Array.isArray(value)) return this.saveFilled(value, "]", value, "e");
    if (value instanceof FrozenSet) return this.saveFrozenSet(value);
    if (value instanceof Set) return this.saveFilled(value, "\x8f", value, "\x90");
    if (value instanceof Map) return this.saveMap(value, value.entries());
    if (value instanceof Global) return this.once(value.toString() + "\0global", () => this.saveGlobal(value));
    if (value instanceof PythonObject) return this.savePythonObject(value);
    if (Object.getPrototypeOf(value) === Object.prototype) return this.saveMap(value, Object.entries(value));
    return this.refuse(`an instance of ${value.constructor?.name} has no counterpart in Python`);
  }

  saveFloat({ value }) {
    const bytes = Buffer.alloc(9);
    bytes.write("G", "latin1");
    bytes.writeDoubleBE(value, 1);
    this.parts.push(bytes);
  }

  saveGlobal({ module, name }) {
    this.save(module);
    this.save(name);
    this.code("\x93");
  }

  saveTuple(value) {
    if (!value.length) return this.code(")");
    this.code("(");
    value.forEach((item, index) => this.within(`[${index}]`, item));
    if (this.memo.has(value)) { // it holds itself, and was saved as its own part
      this.code("1");
      return this.fetch(value);
    }
    this.code("t");
    return this.memoize(value);
  }

  saveFrozenSet(value) {
    this.code("(");
    for (const item of value) this.within("{…}", item);
    if (this.memo.has(value)) {
      this.code("1");
      return this.fetch(value);
    }
    this.code("\x91");
    return this.memoize(value);
  }

  saveFilled(value, empty, items, add) {
    this.code(empty);
    this.memoize(value);
    this.fill(items, add);
  }

  fill(items, add) {
    this.code("(");
    let index = 0;
    for (const item of items) this.within(`[${index++}]`, item);
    this.code(add);
  }

  saveMap(value, entries) {
    this.code("}");
    this.memoize(value);
    this.fillPairs(entries);
  }

  fillPairs(entries) {
    this.code("(");
    for (const [key, item] of entries) {
      this.save(key);
      this.within(`[${typeof key === "string" ? JSON.stringify(key) : String(key)}]`, item);
    }
    this.code("u");
  }

  savePythonObject(value) {
    this.within(" (its class)", value.callable);
    this.within(" (its arguments)", value.args);
    if (value.how === "NEWOBJ_EX") this.save(value.keywords);
    this.code({ REDUCE: "R", NEWOBJ: "\x81", NEWOBJ_EX: "\x92" }[value.how]);
    this.memoize(value);
    if (value.items.length) this.fill(value.items, "e");
    if (value.pairs.length) this.fillPairs(value.pairs);
    if (value.state !== undefined) {
      this.within(" (its state)", value.state);
      this.code("b");
    }
  }
}
