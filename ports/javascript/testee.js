/**
 * The testee of this port for durus-conformance: `node ports/javascript/testee.js`. The messages are
 * described in conformance/README.md.
 */

import { existsSync, readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { connectToServer } from "./src/client_storage.js";
import { Connection } from "./src/connection.js";
import * as dfs20 from "./src/dfs20.js";
import {
  DamageError, FileFaultError, FormatError, MalformedRecordError, ReadConflictError, StateError, StorageError, UnknownOutcomeError,
  UnsoundTailError, WriteConflictError,
} from "./src/errors.js";
import { FileStorage, checkFile } from "./src/file_storage.js";
import { GHOST, PersistentDict, PersistentObject, SAVED, UNSAVED } from "./src/persistent.js";
import { makeRecord, readRecord, splitRecord } from "./src/record.js";
import * as shelf from "./src/shelf.js";
import { INVALID } from "./src/storage.js";
import { encodeUtf8 } from "./src/utf8.js";
import { Float, FrozenSet, Global, PythonObject, Ref, Tuple } from "./src/values.js";

const FORMATS = { "SHELF-1": shelf, DFS20: dfs20 };

/** The JSON of an error that a case may expect; others are raised. */
function faultOf(error) {
  if (error instanceof UnsoundTailError) return { error: "tail", offset: error.offset };
  if (error instanceof DamageError) return { error: "damage", offset: error.offset };
  if (error instanceof FormatError) return { error: "format" };
  throw error;
}

// Records

function readWith(read) {
  try {
    return read();
  } catch (error) {
    if (error instanceof MalformedRecordError) return { error: "malformed" };
    if (error instanceof StateError) return { error: "state" };
    throw error;
  }
}

/** A value as the JSON of the vectors has it. */
function plain(value) {
  if (value === null || typeof value === "boolean") return value;
  if (typeof value === "string") return value.isWellFormed() ? value : { $text: encodeUtf8(value).toString("hex") };
  if (typeof value === "bigint") return { $int: String(value) };
  if (typeof value === "number") return Number.isInteger(value) ? value : { $float: pythonFloat(value) };
  if (value instanceof Float) return { $float: pythonFloat(value.value) };
  if (Buffer.isBuffer(value)) return { $bytes: value.toString("hex") };
  if (value instanceof Ref) return { oid: String(value.oid), class: String(value.className) };
  if (value instanceof Global) return { $global: String(value) };
  if (value instanceof Tuple) return { $tuple: Array.from(value, plain) };
  if (Array.isArray(value)) return value.map(plain);
  if (value instanceof Set) {
    const items = Array.from(value, plain).sort((a, b) => (jsonText(a) < jsonText(b) ? -1 : 1));
    return { [value instanceof FrozenSet ? "$frozenset" : "$set"]: items };
  }
  if (value instanceof Map) {
    const pairs = Array.from(value, ([key, item]) => [key, plain(item)]);
    if (pairs.every(([key]) => typeof key === "string" && !key.startsWith("$") && key.isWellFormed())) return Object.fromEntries(pairs);
    return { $dict: pairs.map(([key, item]) => [plain(key), item]) };
  }
  if (value instanceof PythonObject) return pythonObject(value);
  throw new Error(`the testee has no JSON for ${value}`);
}

/** JSON in ASCII, by which the members of sets are sorted, PICKLE-10. */
function jsonText(value) {
  if (Array.isArray(value)) return `[${value.map(jsonText).join(", ")}]`;
  if (value !== null && typeof value === "object") {
    return `{${Object.entries(value).map(([key, item]) => `${jsonText(key)}: ${jsonText(item)}`).join(", ")}}`;
  }
  return JSON.stringify(value).replace(/[\x7f-\uffff]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

function pythonObject(value) {
  const kind = value.how === "NEWOBJ" ? "$new" : "$call";
  const found = value.how === "NEWOBJ_EX"
    ? { [kind]: "copyreg __newobj_ex__", args: [value.callable, value.args, value.keywords].map(plain) }
    : { [kind]: String(value.callable), args: Array.from(value.args, plain) };
  if (value.items.length) found.items = value.items.map(plain);
  if (value.pairs.length) found.pairs = value.pairs.map((pair) => pair.map(plain));
  if (value.state !== undefined) found.state = plain(value.state);
  return found;
}

/** A float as Python writes it. */
function pythonFloat(value) {
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value < 0 ? "-inf" : "inf";
  if (Object.is(value, -0)) return "-0.0";
  const [digits, exponent] = value.toExponential().split("e").map((part, i) => (i ? Number(part) : part));
  if (exponent < -4 || exponent >= 16) {
    return `${digits}e${exponent < 0 ? "-" : "+"}${String(Math.abs(exponent)).padStart(2, "0")}`;
  }
  return Number.isInteger(value) ? `${value}.0` : value.toFixed(Math.max(0, digits.replace(/[-.]/g, "").length - 1 - exponent));
}

function readRecordOf({ hex }) {
  return readWith(() => {
    const { oid, refs } = splitRecord(Buffer.from(hex, "hex"));
    return { oid: String(oid), refs: refs.map(String) };
  });
}

function readState({ hex }) {
  return readWith(() => {
    const { oid, className, state, refs } = readRecord(Buffer.from(hex, "hex"));
    return { oid: String(oid), class: String(className), state: plain(state), refs: refs.map(String) };
  });
}

/** The record of an object that was loaded and changed. */
function writeRecord({ hex }) {
  const { oid, className, state } = readRecord(Buffer.from(hex, "hex"));
  return { hex: makeRecord(oid, className, state).toString("hex") };
}

// Files

function readFile({ path, format }) {
  const bytes = readFileSync(path);
  if (FORMATS[format].isUnfinished(bytes)) return { error: "format" }; // SHELF-3
  try {
    const layout = FORMATS[format].scan(bytes);
    const objects = Object.fromEntries(Array.from(layout.records, ([oid, { offset, length, fault }]) => {
      if (fault) throw fault;
      return [oid, splitRecord(bytes.subarray(offset, offset + length)).data.toString("latin1")];
    }));
    const found = { objects, transactions: layout.transactions };
    if (format === "SHELF-1") Object.assign(found, { sealed: layout.sealed, free: layout.free.map(Number) });
    return found;
  } catch (error) {
    return faultOf(error);
  }
}

async function writeFile({ path, format, commits }) {
  let storage;
  try {
    storage = new FileStorage(path, existsSync(path) ? {} : { format });
  } catch (error) {
    return faultOf(error);
  }
  const outcomes = [];
  for (const commit of commits) {
    const records = new Map(Object.entries(commit).map(([oid, hex]) => [BigInt(oid), Buffer.from(hex, "hex")]));
    try {
      outcomes.push((await storage.commit({ records })).stored ? "stored" : "refused");
    } catch (error) {
      if (!(error instanceof StorageError || error instanceof MalformedRecordError)) throw error;
      outcomes.push("refused");
    }
  }
  await storage.close();
  return { outcomes };
}

async function newOids({ path, count }) {
  const storage = new FileStorage(path);
  const oids = await storage.newOids(count);
  await storage.close();
  return { oids: oids.map(String) };
}

async function repair({ path }) {
  try {
    await new FileStorage(path, { repair: true }).close();
    return {};
  } catch (error) {
    return faultOf(error);
  }
}

function check({ path }) {
  return { faults: checkFile(path).map((error) => (error instanceof FileFaultError ? error.offset : null)) };
}

// Transactions

const STATUSES = new Map([[GHOST, "a ghost"], [SAVED, "saved"], [UNSAVED, "unsaved"]]);

/** Clients of a server, and the objects of the steps by their names. */
class Stage {
  clients = new Map();
  made = new Map();

  constructor(address, protocol) {
    this.connect = async () => Connection.open(await connectToServer(address, { protocol }));
  }

  object(client, name) {
    if (name === "root") return client.root;
    const made = this.made.get(name);
    return made.connection === client || made.connection === null ? made : client.objectOf(made.oid);
  }

  nameOf(oid) {
    return oid === 0n ? "root" : Array.from(this.made.keys()).find((name) => this.made.get(name).oid === oid);
  }

  async perform({ client: letter, step, object: name, key, value }) {
    if (!this.clients.has(letter)) this.clients.set(letter, await this.connect());
    const client = this.clients.get(letter);
    if (step === "new") {
      this.made.set(name, new PersistentObject("durus.persistent Persistent", new Map()));
      return null;
    }
    const object = name && this.object(client, name);
    const values = async () => {
      await object.load();
      return object instanceof PersistentDict ? object.data : object.state;
    };
    switch (step) {
      case "status":
        return STATUSES.get(object.status);
      case "set":
        (await values()).set(key, value.object ? this.object(client, value.object) : value);
        return object.noteChange() ?? null;
      case "delete":
        (await values()).delete(key);
        return object.noteChange() ?? null;
      case "read":
        return this.read(client, values, key);
      case "commit":
        return this.commit(client);
      case "abort":
        await client.abort();
        return null;
      case "pack":
        await this.pack(client);
        return null;
      default:
        client.dropStates();
        return null;
    }
  }

  async read(client, values, key) {
    try {
      const found = (await values()).get(key);
      if (!(found instanceof PersistentObject)) return found ?? "nothing";
      return { object: Array.from(this.made.keys()).find((name) => this.object(client, name) === found) ?? null };
    } catch (error) {
      if (error instanceof ReadConflictError) return "read conflict";
      throw error;
    }
  }

  async commit(client) {
    try {
      await client.commit();
      return "stored";
    } catch (error) {
      if (error instanceof WriteConflictError) return error.oids.map((oid) => this.nameOf(oid));
      throw error;
    }
  }

  /** Version 1 tells nobody when a pack ends: an object to which nothing refers has gone then. */
  async pack(client) {
    const [oid] = await client.storage.newOids(1);
    const record = makeRecord(oid, "durus.persistent Persistent", new Map());
    await client.storage.commit({ accessed: new Set(), records: new Map([[oid, record]]) });
    await client.pack();
    while ((await client.storage.load(oid)) !== null) await client.abort();
  }

  async close() {
    for (const client of this.clients.values()) await client.close();
  }
}

async function steps({ steps: toDo, address, protocol }) {
  const stage = new Stage(address, protocol);
  const seen = [];
  for (const step of toDo) seen.push(await stage.perform(step));
  await stage.close();
  return { seen };
}

let storage = null;

async function client({ call, address, protocol, count, oids, accessed, records }) {
  const invalidOf = ({ everything, oids: changed }) => (everything ? "any" : changed.map(String));
  switch (call) {
    case "connect":
      storage?.close();
      storage = await connectToServer(address, { protocol });
      return {};
    case "new_oids":
      return { oids: (await storage.newOids(count)).map(String) };
    case "load": {
      const found = await storage.loadMany(oids.map(BigInt));
      return { records: found.map((record) => (record === INVALID ? "invalid" : record?.toString("hex") ?? null)) };
    }
    case "sync":
      return { invalid: invalidOf(await storage.sync()) };
    case "commit": {
      const own = new Map(Object.entries(records).map(([oid, hex]) => [BigInt(oid), Buffer.from(hex, "hex")]));
      let outcome;
      try {
        outcome = await storage.commit({ accessed: new Set(accessed.map(BigInt)), records: own });
      } catch (error) {
        if (error instanceof UnknownOutcomeError) return { stored: "unknown" };
        throw error;
      }
      return outcome.stored ? { stored: true, invalid: invalidOf(outcome.invalid) } : { stored: false };
    }
    case "pack":
      await storage.pack();
      return {};
    default:
      storage.close();
      storage = null;
      return {};
  }
}

const OPERATIONS = {
  read_record: readRecordOf, read_state: readState, write_record: writeRecord, read_file: readFile, write_file: writeFile,
  new_oids: newOids, repair, check, steps, client,
};

function say(message) {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}

say({ testee: "durus for JavaScript", operations: Object.keys(OPERATIONS), needs_peer: true });
for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  try {
    say({ id: request.id, result: await OPERATIONS[request.op](request) });
  } catch (error) {
    say({ id: request.id, error: `${error.name}: ${error.message}` });
  }
}
