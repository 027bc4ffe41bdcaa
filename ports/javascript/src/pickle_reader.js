/**
 * Pickles of the protocols 0 to 5, read without Python.
 *
 * Nothing that a pickle names is called. What is not one of the values in values.js becomes a
 * PythonObject, which says how Python would make it. One reader reads the pickles that follow one
 * another in a record, with one memo (REC-12).
 */

import { StateError } from "./errors.js";
import { Keys } from "./keys.js";
import { decodeUtf8 } from "./utf8.js";
import { Float, FrozenSet, Global, PythonObject, Tuple } from "./values.js";

const MARK = Symbol("mark");
const NEWLINE = 0x0a;
/** So many memo entries any pickle may have. [REC-33] */
const MEMO_ANY_MAY_HAVE = 65536;

/** Names of Python 2 that pickles of the protocols 0 to 2 may have. */
const PRESENT_MODULES = new Map([["__builtin__", "builtins"], ["copy_reg", "copyreg"]]);

export class PickleReader {
  /**
   * @param {(id: unknown) => unknown} persistent makes a value of a persistent id
   * @param {{oldText?: "ascii"|"latin1"}} options what a str of Python 2 is
   */
  constructor(persistent, { oldText = "ascii" } = {}) {
    this.persistent = persistent;
    this.oldText = oldText;
    this.memo = new Map();
    this.keys = new Keys();
  }

  /** Read one pickle; returns its value, and `end`, the offset after it. */
  read(bytes, start = 0) {
    this.bytes = bytes;
    this.at = start;
    this.stack = [];
    this.protocol = 0;
    try {
      for (;;) {
        const code = this.take(1)[0];
        if (code === 0x2e) return { value: this.pop(), end: this.at };
        const step = STEPS.get(code);
        if (!step) throw new StateError(`this port does not know the pickle opcode 0x${code.toString(16)}`);
        step(this);
      }
    } catch (error) {
      if (error instanceof StateError) throw error;
      throw new StateError(`the pickle can't be read at byte ${this.at}: ${error.message}`, { cause: error });
    }
  }

  take(count) {
    if (this.at + count > this.bytes.length) throw new StateError("the pickle is cut off");
    this.at += count;
    return this.bytes.subarray(this.at - count, this.at);
  }

  line() {
    const end = this.bytes.indexOf(NEWLINE, this.at);
    if (end < 0) throw new StateError("the pickle is cut off");
    const line = this.bytes.subarray(this.at, end);
    this.at = end + 1;
    return line;
  }

  u8() {
    return this.take(1)[0];
  }

  u32() {
    return this.take(4).readUInt32LE();
  }

  u64() {
    return Number(this.take(8).readBigUInt64LE());
  }

  push(value) {
    this.stack.push(value);
  }

  pop() {
    const value = this.top();
    this.stack.pop();
    return value;
  }

  top() {
    const value = this.stack.at(-1);
    if (value === undefined || value === MARK) throw new StateError("the pickle takes more values than it makes");
    return value;
  }

  /** Drop the top value, or the mark that is there. */
  drop() {
    if (this.stack.pop() === undefined) throw new StateError("the pickle drops a value where none is");
  }

  popToMark() {
    const mark = this.stack.lastIndexOf(MARK);
    if (mark < 0) throw new StateError("the pickle has no mark where one is needed");
    const values = this.stack.splice(mark);
    values.shift();
    return values;
  }

  get(index) {
    if (!this.memo.has(index)) throw new StateError(`the pickle has no memo entry ${index}`);
    this.push(this.memo.get(index));
  }

  put(index) {
    if (index >= Math.max(MEMO_ANY_MAY_HAVE, this.bytes.length)) {
      throw new StateError(`the pickle has a memo entry ${index}, which is too high for a pickle of this size`);
    }
    this.memo.set(index, this.top());
  }

  global(module, name) {
    const present = this.protocol < 3 ? PRESENT_MODULES.get(module) ?? module : module;
    return new Global(present, name);
  }
}

function integer(value) {
  return value >= Number.MIN_SAFE_INTEGER && value <= Number.MAX_SAFE_INTEGER ? Number(value) : value;
}

/** The integer that a line has. */
function wholeNumber(line) {
  const text = line.toString("latin1").trim();
  if (!/^[-+]?[0-9]+$/.test(text)) throw new StateError(`the pickle has ${JSON.stringify(text)} for an integer`);
  return integer(BigInt(text.replace("+", "")));
}

/** The number of a memo entry that a line has. */
function entryNumber(line) {
  const number = wholeNumber(line);
  if (number < 0) throw new StateError(`the pickle has a memo entry ${number}`);
  return number;
}

function long(bytes) {
  let value = 0n;
  for (let at = bytes.length - 1; at >= 0; at--) value = (value << 8n) | BigInt(bytes[at]);
  return integer(BigInt.asIntN(8 * bytes.length, value));
}

function float(value) {
  return Number.isInteger(value) ? new Float(value) : value;
}

/** A str of Python 2, which is text if it is ASCII; other ones are for `durus convert`. */
function oldString(r, bytes) {
  if (r.oldText === "ascii" && bytes.some((byte) => byte > 127)) {
    throw new StateError("a str of Python 2 is not ASCII; convert the file with durus convert --from-python2");
  }
  r.push(bytes.toString("latin1"));
}

const ESCAPES = { "\\": "\\", "'": "'", '"': '"', a: "\x07", b: "\b", f: "\f", n: "\n", r: "\r", t: "\t", v: "\v" };

/** The bytes that the argument of STRING stands for, PICKLE-4. */
function unquoted(line) {
  const [, , text] = /^(['"])(.*)\1$/s.exec(line.toString("latin1")) ?? [];
  if (text === undefined) throw new StateError("the pickle has a str that is not in quotes");
  const escaped = text.replace(/\\(x[0-9a-fA-F]{2}|[0-7]{1,3}|[^]?)/g, (whole, what) => {
    if (what.length === 3 && what[0] === "x") return String.fromCharCode(parseInt(what.slice(1), 16));
    if (/^[0-7]/.test(what)) return String.fromCharCode(parseInt(what, 8) & 0xff);
    if (what === "x" || what === "") throw new StateError("the pickle has a str with an escape that is cut off");
    return ESCAPES[what] ?? whole;
  });
  return Buffer.from(escaped, "latin1");
}

function rawUnicode(line) {
  return line.toString("latin1").replace(/\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|[^]?)/g, (whole, short, wide) => {
    const digits = short ?? wide;
    if (digits) return String.fromCodePoint(parseInt(digits, 16));
    if (/[uU]$/.test(whole)) throw new StateError("the pickle has a text with an escape that is cut off");
    return whole; // a \ and what is after it are themselves
  });
}

/** Whether a value is one that opcodes push, and so neither can be called nor takes a state, PICKLE-10. */
function isPlain(value) {
  return value === null || typeof value !== "object" || Array.isArray(value) || Buffer.isBuffer(value)
    || value instanceof Map || value instanceof Set || value instanceof Float;
}

/** Set keys to values; of equal keys the first stays, with the last value, PICKLE-14. */
function setPairs(r, target, values) {
  if (values.length % 2) throw new StateError("the pickle sets a key without a value");
  if (!(target instanceof Map) && !(target instanceof PythonObject)) throw new StateError("the pickle sets keys of a value that is no dict");
  for (let at = 0; at < values.length; at += 2) {
    if (target instanceof Map) target.set(r.keys.heldBy(target, values[at]), values[at + 1]);
    else target.pairs.push([values[at], values[at + 1]]);
  }
}

function addItems(target, values) {
  const isList = Array.isArray(target) && !(target instanceof Tuple);
  if (!isList && !(target instanceof PythonObject)) throw new StateError("the pickle adds items to a value that is no list");
  (isList ? target : target.items).push(...values);
}

/** Add members to a set; returns it. */
function addMembers(r, set, values) {
  for (const value of values) set.add(r.keys.heldBy(set, value));
  return set;
}

/** What a call makes, where JavaScript has a kind for it. */
function call(r, callable, args) {
  if (isPlain(callable)) throw new StateError("the pickle calls a value that is neither a class nor a function");
  if (!(args instanceof Tuple)) throw new StateError("the pickle calls something with arguments that are not a tuple");
  switch (String(callable)) {
    case "builtins set":
      return addMembers(r, new Set(), args[0] ?? []);
    case "builtins frozenset":
      return addMembers(r, new FrozenSet(), args[0] ?? []);
    case "builtins bytes":
      if (!args.length) return Buffer.alloc(0);
      break;
    case "_codecs encode": // how the protocols 0 to 2 write bytes, PICKLE-5
      if (args[1] === "latin1" || args[1] === "latin-1") {
        if (/[^\0-\xff]/.test(args[0])) throw new StateError("the pickle has a text for bytes that are above 255");
        return Buffer.from(args[0], "latin1");
      }
      break;
    case "builtins getattr": // how Durus 4.3 writes a nested class, REC-10
      if (args[0] instanceof Global) return new Global(args[0].module, `${args[0].name}.${args[1]}`);
      break;
  }
  return new PythonObject("REDUCE", callable, args);
}

function tupleStep(count) {
  return (r) => {
    const values = [];
    for (let left = count; left; left--) values.unshift(r.pop());
    r.push(Tuple.from(values));
  };
}

function build(r) {
  const state = r.pop();
  if (!(r.top() instanceof PythonObject)) throw new StateError("the pickle gives a state to a plain value");
  r.top().state = state;
}

/** INST and OBJ: without arguments they make an instance as NEWOBJ does, PICKLE-10. */
function makeInstance(r, callable, args) {
  if (args.length) r.push(call(r, callable, Tuple.from(args)));
  else r.push(newObject("NEWOBJ", callable, new Tuple()));
}

function newObject(how, callable, args, keywords = null) {
  if (!(callable instanceof Global)) throw new StateError("the pickle makes an instance of a value that is no class");
  if (!(args instanceof Tuple)) throw new StateError("the pickle makes an instance with arguments that are not a tuple");
  return new PythonObject(how, callable, args, keywords);
}

const STEPS = new Map(Object.entries({
  "(": (r) => r.push(MARK),
  "0": (r) => r.drop(),
  "1": (r) => r.popToMark(),
  "2": (r) => r.push(r.top()),
  F: (r) => r.push(float(pythonFloat(r.line().toString()))),
  G: (r) => r.push(float(r.take(8).readDoubleBE())),
  I: (r) => {
    const line = r.line();
    const text = line.toString();
    r.push(text === "00" ? false : text === "01" ? true : wholeNumber(line));
  },
  J: (r) => r.push(r.take(4).readInt32LE()),
  K: (r) => r.push(r.u8()),
  L: (r) => {
    const line = r.line();
    r.push(wholeNumber(line.at(-1) === 0x4c ? line.subarray(0, -1) : line));
  },
  M: (r) => r.push(r.take(2).readUInt16LE()),
  N: (r) => r.push(null),
  P: (r) => r.push(r.persistent(r.line().toString())),
  Q: (r) => r.push(r.persistent(r.pop())),
  R: (r) => {
    const args = r.pop();
    r.push(call(r, r.pop(), args));
  },
  S: (r) => oldString(r, unquoted(r.line())),
  T: (r) => oldString(r, r.take(r.u32())),
  U: (r) => oldString(r, r.take(r.u8())),
  V: (r) => r.push(rawUnicode(r.line())),
  X: (r) => r.push(decodeUtf8(r.take(r.u32()))),
  B: (r) => r.push(Buffer.from(r.take(r.u32()))),
  C: (r) => r.push(Buffer.from(r.take(r.u8()))),
  a: (r) => {
    const value = r.pop();
    addItems(r.top(), [value]);
  },
  b: build,
  c: (r) => {
    const module = decodeUtf8(r.line());
    r.push(r.global(module, decodeUtf8(r.line())));
  },
  d: (r) => {
    const values = r.popToMark();
    r.push(new Map());
    setPairs(r, r.top(), values);
  },
  e: (r) => {
    const values = r.popToMark();
    addItems(r.top(), values);
  },
  g: (r) => r.get(entryNumber(r.line())),
  h: (r) => r.get(r.u8()),
  i: (r) => {
    const module = decodeUtf8(r.line());
    const callable = r.global(module, decodeUtf8(r.line()));
    makeInstance(r, callable, r.popToMark());
  },
  j: (r) => r.get(r.u32()),
  l: (r) => r.push(r.popToMark()),
  o: (r) => {
    const [callable, ...args] = r.popToMark();
    makeInstance(r, callable, args);
  },
  p: (r) => r.put(entryNumber(r.line())),
  q: (r) => r.put(r.u8()),
  r: (r) => r.put(r.u32()),
  s: (r) => {
    const value = r.pop();
    const name = r.pop();
    setPairs(r, r.top(), [name, value]);
  },
  t: (r) => r.push(Tuple.from(r.popToMark())),
  u: (r) => {
    const values = r.popToMark();
    setPairs(r, r.top(), values);
  },
  "]": (r) => r.push([]),
  "}": (r) => r.push(new Map()),
  ")": (r) => r.push(new Tuple()),
  "\x80": (r) => {
    r.protocol = r.u8();
    if (r.protocol > 5) throw new StateError(`pickle protocol ${r.protocol} is not known`);
  },
  "\x81": (r) => {
    const args = r.pop();
    r.push(newObject("NEWOBJ", r.pop(), args));
  },
  "\x85": tupleStep(1),
  "\x86": tupleStep(2),
  "\x87": tupleStep(3),
  "\x88": (r) => r.push(true),
  "\x89": (r) => r.push(false),
  "\x8a": (r) => r.push(long(r.take(r.u8()))),
  "\x8b": (r) => r.push(long(r.take(r.u32()))),
  "\x8c": (r) => r.push(decodeUtf8(r.take(r.u8()))),
  "\x8d": (r) => r.push(decodeUtf8(r.take(r.u64()))),
  "\x8e": (r) => r.push(Buffer.from(r.take(r.u64()))),
  "\x8f": (r) => r.push(new Set()),
  "\x90": (r) => {
    const values = r.popToMark();
    if (!(r.top() instanceof Set) || r.top() instanceof FrozenSet) throw new StateError("the pickle adds members to a value that is no set");
    addMembers(r, r.top(), values);
  },
  "\x91": (r) => r.push(addMembers(r, new FrozenSet(), r.popToMark())),
  "\x92": (r) => {
    const keywords = r.pop();
    const args = r.pop();
    if (!(keywords instanceof Map)) throw new StateError("the pickle has named arguments that are not a dict");
    r.push(newObject("NEWOBJ_EX", r.pop(), args, keywords));
  },
  "\x93": (r) => {
    const name = r.pop();
    const module = r.pop();
    if (typeof name !== "string" || typeof module !== "string") throw new StateError("the pickle has a name that is not text");
    r.push(r.global(module, name));
  },
  "\x94": (r) => r.put(r.memo.size),
  "\x95": (r) => {
    if (r.u64() > r.bytes.length - r.at) throw new StateError("a frame extends beyond the end of the pickle"); // REC-33
  },
  "\x96": (r) => {
    const bytes = Buffer.from(r.take(r.u64()));
    r.push(new PythonObject("REDUCE", new Global("builtins", "bytearray"), Tuple.of(bytes)));
  },
}).map(([letter, step]) => [letter.charCodeAt(0), step]));

function pythonFloat(line) {
  const text = line.trim().toLowerCase();
  const special = { inf: Infinity, "-inf": -Infinity, nan: NaN }[text];
  if (special !== undefined) return special;
  if (!/^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?$/.test(text)) throw new StateError(`the pickle has ${JSON.stringify(text)} for a float`);
  return Number(text);
}
