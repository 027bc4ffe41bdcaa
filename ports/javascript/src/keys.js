/**
 * Which keys of a dict, and which members of a set, are one for Python. Statement PICKLE-14.
 *
 * JavaScript tells 1, 1.0 and true apart, and two equal tuples or bytes. Here each key has a number, which equal keys
 * share. A tuple that occurs several times is looked at once, so a small pickle can't make much work.
 */

import { StateError } from "./errors.js";
import { Float, FrozenSet, Global, PythonObject, Ref, Tuple } from "./values.js";

/** Tuples inside each other that a key may have, REC-34. */
const DEEPEST = 1000;

const NOT_HASHABLE = new Set([
  "builtins bytearray", "collections OrderedDict", "collections defaultdict", "collections Counter", "collections deque",
]);
/** Values of these are equal if they are made of equal arguments. */
const EQUAL_BY_ARGUMENTS = new Set([
  "datetime date", "datetime time", "datetime datetime", "datetime timedelta", "datetime timezone", "decimal Decimal",
  "fractions Fraction", "builtins complex",
]);

export class Keys {
  constructor() {
    this.numbers = new Map();
    this.numbersOfObjects = new Map();
    this.held = new Map();
  }

  /** The key that a container has in place of this one: an equal one that it had before, or this one. */
  heldBy(container, key) {
    if (typeof key === "string") return key;
    const number = this.numberOf(key);
    if (!this.held.has(container)) this.held.set(container, new Map());
    const own = this.held.get(container);
    if (!own.has(number)) own.set(number, key);
    return own.get(number);
  }

  /** The number of a key; StateError if Python can't use it as one. */
  numberOf(value, depth = 0) {
    if (value === null) return this.numbered("None");
    switch (typeof value) {
      case "string":
        return this.numbered(`text ${value}`);
      case "boolean":
        return this.numbered(`number ${Number(value)}`);
      case "number":
      case "bigint":
        return this.numbered(`number ${value}`);
    }
    if (value instanceof Float) return this.numbered(`number ${BigInt(value.value)}`);
    if (Buffer.isBuffer(value)) return this.numbered(`bytes ${value.toString("hex")}`);
    if (value instanceof Global) return this.numbered(`global ${value}`);
    if (value instanceof Ref) return this.numbered(`oid ${value.oid}`);
    if (!this.numbersOfObjects.has(value)) this.numbersOfObjects.set(value, this.numberOfObject(value, depth));
    return this.numbersOfObjects.get(value);
  }

  numberOfObject(value, depth) {
    if (depth > DEEPEST) throw new StateError(`a key has more than ${DEEPEST} tuples inside each other`);
    const parts = (values) => Array.from(values, (part) => this.numberOf(part, depth + 1));
    if (value instanceof Tuple) return this.numbered(`tuple ${parts(value)}`);
    if (value instanceof FrozenSet) return this.numbered(`frozenset ${parts(value).sort((a, b) => a - b)}`);
    if (value instanceof PythonObject) {
      const name = String(value.callable);
      if (NOT_HASHABLE.has(name)) throw new StateError(`a ${name} can't be a key`);
      if (EQUAL_BY_ARGUMENTS.has(name)) return this.numbered(`${name} ${parts(value.args)}`);
    } else if (Array.isArray(value) || value instanceof Map || value instanceof Set) {
      throw new StateError("a list, a dict or a set can't be a key");
    }
    return this.numbered(value);
  }

  numbered(what) {
    if (!this.numbers.has(what)) this.numbers.set(what, this.numbers.size);
    return this.numbers.get(what);
  }
}
