/**
 * The `steps` examples of the specification, and how clients of this port perform them.
 */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { ReadConflictError, WriteConflictError } from "../src/errors.js";
import { GHOST, PersistentDict, PersistentObject, SAVED, UNSAVED } from "../src/persistent.js";
import { makeRecord } from "../src/record.js";

const STATUSES = { "a ghost": GHOST, saved: SAVED, unsaved: UNSAVED };
const FENCE = /^```steps (\S+)[^\n]*\n(.*?)^```/gms;

/** The examples of a document: their names and lines. */
export function examples(document) {
  const text = readFileSync(new URL(`../../../spec/${document}.md`, import.meta.url), "utf8");
  return Array.from(text.matchAll(FENCE), ([, name, body]) => {
    const lines = body.split("\n").map((line) => line.replace(/(^|\s)#.*$/, "").trim());
    return { name, lines: lines.filter(Boolean) };
  });
}

/** Clients A, B and so on of one server, and the objects of an example by their names. */
export class Performance {
  constructor(connect) {
    this.connect = connect;
    this.clients = new Map();
    this.objects = new Map(); // as they were made, by name
  }

  async perform(line) {
    const [, letter = "A", step] = /^(?:([A-Z]): )?(.*)$/.exec(line);
    if (!this.clients.has(letter)) this.clients.set(letter, await this.connect());
    const client = this.clients.get(letter);
    for (const [pattern, act] of STEPS) {
      const match = pattern.exec(step);
      if (match) return act(this, client, ...match.slice(1));
    }
    throw new Error(`this is not a step: ${step}`);
  }

  async close() {
    for (const client of this.clients.values()) await client.close();
  }

  /** A client's own object of a name; not an access. */
  async object(client, name) {
    if (name === "root") return client.root;
    const made = this.objects.get(name);
    if (made.connection === client || made.connection === null) return made;
    return client.objectOf(made.oid);
  }

  async value(client, text) {
    return /^\d+$/.test(text) ? Number(text) : this.object(client, text);
  }
}

/** The values of an object: the items of the root, the attributes of another one. */
async function values(object) {
  await object.load();
  return object instanceof PersistentDict ? object.data : object.state;
}

/** Store an object that nothing refers to: when it has gone, a pack has ended. */
async function unreachedObject(storage) {
  const [oid] = await storage.newOids(1);
  const record = makeRecord(oid, "durus.persistent Persistent", new Map());
  await storage.commit({ accessed: new Set(), records: new Map([[oid, record]]) });
  return oid;
}

const STEPS = [
  [/^(\w+) is new$/, (stage, client, name) => {
    stage.objects.set(name, new PersistentObject("durus.persistent Persistent", new Map()));
  }],
  [/^(\w+) is (a ghost|saved|unsaved)$/, async (stage, client, name, status) => {
    assert.equal((await stage.object(client, name)).status, STATUSES[status]);
  }],
  [/^(\w+)\.(\w+) = (\w+)$/, async (stage, client, name, key, value) => {
    const object = await stage.object(client, name);
    (await values(object)).set(key, await stage.value(client, value));
    object.noteChange();
  }],
  [/^delete (\w+)\.(\w+)$/, async (stage, client, name, key) => {
    const object = await stage.object(client, name);
    (await values(object)).delete(key);
    object.noteChange();
  }],
  [/^read (\w+)\.\w+ -> read conflict$/, async (stage, client, name) => {
    const object = await stage.object(client, name);
    await assert.rejects(values(object), (error) =>
      error instanceof ReadConflictError && error.oids.length === 1 && error.oids[0] === object.oid);
  }],
  [/^read (\w+)\.(\w+) -> (\w+)$/, async (stage, client, name, key, expected) => {
    const found = (await values(await stage.object(client, name))).get(key);
    assert.equal(found, expected === "nothing" ? undefined : await stage.value(client, expected));
  }],
  [/^commit -> write conflict on (.*)$/, async (stage, client, names) => {
    const objects = await Promise.all(names.split(", ").map((name) => stage.object(client, name)));
    await assert.rejects(client.commit(), (error) => {
      assert(error instanceof WriteConflictError);
      assert.deepEqual(error.oids, objects.map(({ oid }) => oid).sort());
      return true;
    });
  }],
  [/^(commit|abort)$/, (stage, client, what) => client[what]()],
  [/^pack$/, async (stage, client) => {
    const removed = await unreachedObject(client.storage);
    await client.pack();
    while ((await client.storage.load(removed)) !== null) await client.abort(); // version 1 tells nobody when a pack ends
  }],
  [/^drop the states$/, (stage, client) => client.dropStates()],
];
