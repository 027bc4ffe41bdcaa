/**
 * The clients of both versions against the exchanges of wire.md and wire-2.md, without a socket: what
 * they send must be the bytes of the document, and they must understand what the server answers.
 *
 * Exchanges that show how a server treats malformed requests are not for clients, and left out.
 */

import assert from "node:assert/strict";
import { createServer } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { splitOids } from "../src/bytes.js";
import { connectToServer } from "../src/client_storage.js";
import { LostConnectionError, ServerError, UnknownOutcomeError } from "../src/errors.js";
import { newFolder } from "./durus.js";
import { makeRecord, splitRecord } from "../src/record.js";
import { INVALID } from "../src/storage.js";
import { Protocol1 } from "../src/wire1.js";
import { Protocol2 } from "../src/wire2.js";
import { vectors } from "./vectors.js";

const ONLY_FOR_SERVERS = [
  "unknown-command", "commit-beyond-the-limit", "load-of-2-to-the-29-oids",
  "entry-of-almost-4-gib-in-a-commit", "entry-beyond-the-end-of-its-commit", "record-of-another-oid",
  "two-records-of-one-oid", "oid-of-another-client", "versions", "a-malformed-request",
  "the-server-is-stopped", "the-server-is-stopped-in-version-2", "a-message-of-no-bytes", "requests-that-do-not-wait-for-answers",
  "a-commit-that-is-incomplete-when-the-server-stops", "a-compressed-request", "a-compressed-message-of-another-size",
  "a-compressed-message-beyond-the-limit", "records-that-are-needed-soon",
];

/** In place of a WireStream: what was sent, and what is to be read. */
class Script {
  sent = Buffer.alloc(0);
  #input = Buffer.alloc(0);

  write(...parts) {
    this.sent = Buffer.concat([this.sent, ...parts]);
  }

  feed(bytes) {
    this.#input = Buffer.concat([this.#input, bytes]);
  }

  async read(count) {
    assert(count <= this.#input.length, `${count} bytes are read, and ${this.#input.length} were sent`);
    const bytes = this.#input.subarray(0, count);
    this.#input = this.#input.subarray(count);
    return bytes;
  }

  get left() {
    return this.#input.length;
  }

  takeSent() {
    const { sent } = this;
    this.sent = Buffer.alloc(0);
    return sent.toString("hex");
  }

  fault(found) {
    throw new LostConnectionError(found);
  }

  close(goodbye = Buffer.alloc(0)) {
    this.write(goodbye);
  }
}

function records(parts) {
  return new Map(parts.map((record) => [splitRecord(record).oid, record]));
}

/** The parts of bytes that have a u32 length before each. */
function sizedParts(bytes) {
  const parts = [];
  for (let at = 0; at < bytes.length; at += 4 + bytes.readUInt32BE(at)) {
    parts.push(bytes.subarray(at + 4, at + 4 + bytes.readUInt32BE(at)));
  }
  return parts;
}

/** The call of a version 1 client that sends a request; null if it never sends one such. */
function call1(client, request) {
  const oids = () => splitOids(request.subarray(1));
  switch (String.fromCharCode(request[0])) {
    case "N": return () => client.newOids(1);
    case "M": return request[1] ? () => client.newOids(request[1]) : null;
    case "L": return () => client.load(oids()[0]);
    case "B": return () => client.loadMany(splitOids(request.subarray(5)));
    case "S": return () => client.sync();
    case "C": return () => client.beginCommit();
    case "P": return () => client.pack();
    case ".": return () => client.close();
    case "\0": {
      const data = request.subarray(4);
      if (!data.length) return () => client.giveUpCommit();
      return () => client.sendCommit(records(sizedParts(data).map((entry) => entry.subarray(8))));
    }
  }
  throw new Error(`the test does not know the request ${request}`);
}

function call2(client, request) {
  const body = request.subarray(5);
  switch (String.fromCharCode(request[4])) {
    case "N": return () => client.newOids(body.readUInt16BE());
    case "L": return () => client.loadMany(splitOids(body.subarray(2)), body.readUInt16BE());
    case "S": return () => client.sync();
    case "T": return () => client.takeTurn(body[0] === 1);
    case "U": return () => client.giveUpTurn();
    case "P": return () => client.pack();
    case "G": return () => client.ping(body);
    case ".": return () => client.close();
    case "C": {
      const count = body.readUInt32BE(10);
      const accessed = new Set(Array.from({ length: count }, (_, i) => BigInt(body.readUInt32BE(14 + 4 * i))));
      return () => {
        client.serial = body.readBigUInt64BE(1);
        return client.sendCommit(accessed, records(sizedParts(body.subarray(14 + 4 * count))), body[0] === 1);
      };
    }
  }
  return null; // options and snapshots, which this port does not use, and what no client sends
}

/** What one client of an exchange sends, and what it gets after each request. */
function turns(lines, letter) {
  const turns = [];
  for (const [client, event, hex] of lines) {
    if (client !== letter || event === "closed") continue;
    const bytes = Buffer.from(hex, "hex");
    if (event === ">") turns.push({ request: bytes, answer: Buffer.alloc(0) });
    else turns.at(-1).answer = Buffer.concat([turns.at(-1).answer, bytes]);
  }
  return turns;
}

const VERSIONS = [
  ["wire", (stream) => new Protocol1(stream), call1],
  ["wire-2", (stream) => new Protocol2(stream), call2],
];

for (const [document, makeClient, callOf] of VERSIONS) {
  for (const { name, lines } of vectors(document, "exchange")) {
    if (ONLY_FOR_SERVERS.includes(name)) continue;
    for (const letter of new Set(lines.map(([client]) => client))) {
      test(`${document} exchange ${name}, client ${letter}`, async () => {
        const stream = new Script();
        const client = makeClient(stream);
        for (const { request, answer } of turns(lines, letter)) {
          stream.feed(answer);
          if (request[0] === "V".charCodeAt(0)) {
            const spoken = (await stream.read(4)).readUInt32BE();
            if (spoken === 2) await client.begin();
            continue;
          }
          const call = callOf(client, request);
          if (call === null) {
            if (answer.length) await client.answer?.("Y").catch((error) => assert(error instanceof ServerError));
            continue;
          }
          const result = call();
          assert.equal(stream.takeSent(), request.toString("hex"));
          await Promise.resolve(result).catch((error) => assert(error instanceof ServerError));
          assert.equal(stream.left, 0, "the client has not read all of the answer");
        }
      });
    }
  }
}

test("a message of a kind from 0x80 on is ignored (WIRE2-4), and so is a W (WIRE2-33)", async () => {
  const stream = new Script();
  stream.feed(Buffer.from("0000000290ff" + "0000000157" + "0000000247aa", "hex"));
  assert.deepEqual(await new Protocol2(stream).ping(Buffer.from([0xaa])), Buffer.from([0xaa]));
});

test("any other unknown message is a fault (WIRE2-4)", async () => {
  const stream = new Script();
  stream.feed(Buffer.from("000000017a", "hex"));
  await assert.rejects(new Protocol2(stream).ping(), LostConnectionError);
});

/** A server of version 1, as that of Durus 4.3 is; `answer(request, socket)` is called for each piece of bytes after the versions. */
async function oldServer(t, answer) {
  const path = join(newFolder(t), "old.sock");
  const sockets = new Set();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.once("data", (request) => {
      socket.write(Buffer.from([0, 0, 0, 1]));
      if (request[4] !== 1) return socket.end();
      return socket.on("data", (bytes) => answer(bytes.toString("latin1"), socket));
    });
  });
  await new Promise((resolve) => server.listen(path, resolve));
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return { path };
}

test("a server that speaks version 1 only is asked again in version 1 (WIRE2-1)", async (t) => {
  const address = await oldServer(t, (request, socket) => socket.write("K"));
  const storage = await connectToServer(address);
  assert(storage instanceof Protocol1);
  assert.equal(await storage.load(5n), null);
  storage.close();
});

test("a connection that is lost in a commit leaves the outcome unknown (WIRE-25)", async (t) => {
  const address = await oldServer(t, (request, socket) => (request === "C" ? socket.write("\0\0\0\0") : socket.end()));
  const storage = await connectToServer(address);
  const records = new Map([[0n, makeRecord(0n, "a B", null)]]);
  await assert.rejects(storage.commit({ accessed: new Set([0n]), records }), UnknownOutcomeError);
  await assert.rejects(storage.sync(), LostConnectionError);
});

test("a connection that is lost before a commit is sent has stored nothing, and says no more", async (t) => {
  const address = await oldServer(t, (request, socket) => socket.end());
  const storage = await connectToServer(address);
  await assert.rejects(storage.commit({ accessed: new Set(), records: new Map() }), (error) =>
    error instanceof LostConnectionError && !(error instanceof UnknownOutcomeError));
});

test("a server that does not answer in time is lost (WIRE-25)", async (t) => {
  const address = await oldServer(t, () => {});
  const storage = await connectToServer(address, { timeout: 0.05 });
  await assert.rejects(storage.sync(), /in time/);
  await assert.rejects(storage.sync(), LostConnectionError);
});

test("what the protocol does not have ends the connection (WIRE-25)", async (t) => {
  const address = await oldServer(t, (request, socket) => socket.write("x"));
  const storage = await connectToServer(address);
  await assert.rejects(storage.load(0n), /a load answer x/);
  await assert.rejects(storage.load(0n), LostConnectionError);
});

test("a load has no more oids than the server allows (WIRE2-2)", async () => {
  const script = new Script();
  const client = new Protocol2(script);
  client.limits = { load: 2 };
  script.feed(Buffer.concat([Buffer.from([0, 0, 0, 3]), Buffer.from("RKK"), Buffer.from([0, 0, 0, 2]), Buffer.from("RI")]));
  assert.deepEqual(await client.loadMany([1n, 2n, 3n]), [null, null, INVALID]);
  const oid = (number) => `00000000000000${number.toString(16).padStart(2, "0")}`;
  assert.equal(script.takeSent(), `000000134c0000${oid(1)}${oid(2)}0000000b4c0000${oid(3)}`);
  assert.equal(script.left, 0);
});

test("no server at all is a lost connection", async (t) => {
  await assert.rejects(connectToServer({ path: join(newFolder(t), "none") }), LostConnectionError);
});
