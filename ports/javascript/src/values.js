/**
 * The values of Python that JavaScript has no kind for.
 *
 * | Python            | JavaScript                                              |
 * |-------------------|---------------------------------------------------------|
 * | None, bool, str   | null, boolean, string                                   |
 * | int               | number, or BigInt if it is not a safe integer           |
 * | float             | number, or Float if a number would be taken for an int  |
 * | bytes             | Buffer                                                  |
 * | list, dict, set   | Array, Map, Set                                         |
 * | tuple, frozenset  | Tuple, FrozenSet                                        |
 * | a class, function | Global                                                  |
 * | anything else     | PythonObject: how Python makes it                       |
 * | a reference       | Ref                                                     |
 */

/** What a module of Python holds under a qualified name: a class or a function. */
export class Global {
  constructor(module, name) {
    this.module = module;
    this.name = name;
  }

  /** From `"module name"`, as the specification writes it; a Global is returned as it is. */
  static of(path) {
    if (path instanceof Global) return path;
    const space = path.indexOf(" ");
    if (space < 1) throw new TypeError(`"${path}" is not a module, a space and a qualified name`);
    return new Global(path.slice(0, space), path.slice(space + 1));
  }

  is(path) {
    return this.toString() === path;
  }

  toString() {
    return `${this.module} ${this.name}`;
  }
}

/** A reference to a persistent object: its oid, and the class that the reference names, REC-14. */
export class Ref {
  constructor(oid, className) {
    this.oid = oid;
    this.className = className;
  }
}

/** A tuple. Make one with `Tuple.of(1, 2)` or `Tuple.from(iterable)`. */
export class Tuple extends Array {}

export class FrozenSet extends Set {}

/** A float that has the value of an integer: 1.0 must not come back as 1. */
export class Float {
  constructor(value) {
    this.value = value;
  }

  valueOf() {
    return this.value;
  }
}

/**
 * A value of a class or a function that this port does not know: what Python calls to make it, and
 * what it gives it then. It is written again with the same steps.
 */
export class PythonObject {
  /** @param {"REDUCE"|"NEWOBJ"|"NEWOBJ_EX"} how */
  constructor(how, callable, args, keywords = null) {
    this.how = how;
    this.callable = callable;
    this.args = args;
    this.keywords = keywords;
    this.state = undefined;
    this.items = [];
    this.pairs = [];
  }

  /** The class or function that makes the value, as `"module name"`. */
  get className() {
    const made = this.callable.is?.("copyreg _reconstructor") ? this.args[0] : this.callable;
    return String(made);
  }
}
