/**
 * Pickles of the protocols 0 to 5, read without Python.
 *
 * Nothing that a pickle names is called. What is not one of the values in values.js becomes a
 * PythonObject, which tells how Python would make it. One reader reads the pickles that follow one
 * another in a record, with one memo (REC-12).
 */

import { StateError } from "./errors.js";
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
    if (!this.stack.length) throw new StateError("the pickle takes more values than it makes");
    return this.stack.pop();
  }

  top() {
    return this.stack.at(-1);
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
      throw new StateError(`the pickle has a memo entry ${index}, and so few bytes can't have so many`);
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

function unquoted(line) {
  const text = line.toString("latin1").slice(1, -1);
  const escaped = text.replace(/\\(x[0-9a-f]{2}|.)/g, (_, what) =>
    what[0] === "x" ? String.fromCharCode(parseInt(what.slice(1), 16)) : { n: "\n", r: "\r", t: "\t" }[what] ?? what);
  return Buffer.from(escaped, "latin1");
}

function rawUnicode(line) {
  return line.toString("latin1").replace(/\\u([0-9a-fA-F]{4})|\\U([0-9a-fA-F]{8})/g, (_, short, wide) =>
    String.fromCodePoint(parseInt(short ?? wide, 16)));
}

/** A key that Python takes, PICKLE-14. */
function key(value) {
  const isMutable = Array.isArray(value) ? !(value instanceof Tuple)
    : value instanceof Map || (value instanceof Set && !(value instanceof FrozenSet));
  if (isMutable) throw new StateError("the pickle has a list, a dict or a set as a key");
  return value;
}

function setPairs(target, values) {
  for (let at = 0; at < values.length; at += 2) {
    if (target instanceof Map) target.set(key(values[at]), values[at + 1]);
    else target.pairs.push([values[at], values[at + 1]]);
  }
}

function addItems(target, values) {
  if (target instanceof Set) for (const value of values) target.add(key(value));
  else (Array.isArray(target) ? target : target.items).push(...values);
}

/** What a call makes, where JavaScript has a kind for it. */
function call(callable, args) {
  switch (String(callable)) {
    case "builtins set":
      return new Set(args[0] ?? []);
    case "builtins frozenset":
      return new FrozenSet(args[0] ?? []);
    case "builtins bytes":
      if (!args.length) return Buffer.alloc(0);
      break;
    case "_codecs encode": // how the protocols 0 to 2 write bytes
      if (args[1] === "latin1") return Buffer.from(args[0], "latin1");
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

function makeInstance(r, callable, args) {
  r.push(new PythonObject(args.length ? "REDUCE" : "NEWOBJ", callable, Tuple.from(args)));
}

const STEPS = new Map(Object.entries({
  "(": (r) => r.push(MARK),
  "0": (r) => r.pop(),
  "1": (r) => r.popToMark(),
  "2": (r) => r.push(r.top()),
  F: (r) => r.push(float(pythonFloat(r.line().toString()))),
  G: (r) => r.push(float(r.take(8).readDoubleBE())),
  I: (r) => {
    const text = r.line().toString();
    r.push(text === "00" ? false : text === "01" ? true : integer(BigInt(text)));
  },
  J: (r) => r.push(r.take(4).readInt32LE()),
  K: (r) => r.push(r.u8()),
  L: (r) => r.push(integer(BigInt(r.line().toString().replace(/L$/, "")))),
  M: (r) => r.push(r.take(2).readUInt16LE()),
  N: (r) => r.push(null),
  P: (r) => r.push(r.persistent(r.line().toString())),
  Q: (r) => r.push(r.persistent(r.pop())),
  R: (r) => {
    const args = r.pop();
    r.push(call(r.pop(), args));
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
    setPairs(r.top(), values);
  },
  e: (r) => {
    const values = r.popToMark();
    addItems(r.top(), values);
  },
  g: (r) => r.get(Number(r.line())),
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
  p: (r) => r.put(Number(r.line())),
  q: (r) => r.put(r.u8()),
  r: (r) => r.put(r.u32()),
  s: (r) => {
    const value = r.pop();
    const name = r.pop();
    setPairs(r.top(), [name, value]);
  },
  t: (r) => r.push(Tuple.from(r.popToMark())),
  u: (r) => {
    const values = r.popToMark();
    setPairs(r.top(), values);
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
    r.push(new PythonObject("NEWOBJ", r.pop(), args));
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
    addItems(r.top(), values);
  },
  "\x91": (r) => r.push(new FrozenSet(r.popToMark())),
  "\x92": (r) => {
    const keywords = r.pop();
    const args = r.pop();
    r.push(new PythonObject("NEWOBJ_EX", r.pop(), args, keywords));
  },
  "\x93": (r) => {
    const name = r.pop();
    r.push(r.global(r.pop(), name));
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

function pythonFloat(text) {
  return { inf: Infinity, "-inf": -Infinity, nan: NaN }[text] ?? Number(text);
}
