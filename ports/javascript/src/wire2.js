/**
 * The requests of version 2 of the wire protocol: wire-2.md.
 *
 * This client takes no records that it has not asked for, no snapshots and no compression, so it
 * sends no `O`.
 */

import { joinOids, sortedOids, splitOids, u32, u64 } from "./bytes.js";
import { DurusError, LostConnectionError, ServerError, UnknownOutcomeError } from "./errors.js";
import { INVALID } from "./storage.js";

const MOST_NEW_OIDS = 2 ** 16 - 1;
const CLOSING_ERROR = 2;

function u16(value) {
  return Buffer.from([value >> 8, value & 0xff]);
}

export class Protocol2 {
  constructor(stream) {
    this.stream = stream;
  }

  /** The first message of the server, WIRE2-2. */
  async begin() {
    const { kind, body } = await this.readMessage();
    if (kind !== "H" || body.length < 37) this.stream.fault(`a first message ${kind}`);
    this.serial = body.readBigUInt64BE(0);
    this.limits = { commit: body.readUInt32BE(8), load: body.readUInt32BE(12), accessed: body.readUInt32BE(16) };
    return this;
  }

  send(kind, ...parts) {
    const body = Buffer.concat(parts);
    this.stream.write(u32(1 + body.length), Buffer.from(kind), body);
  }

  /** The next message that is an answer or a part of one, WIRE2-3, WIRE2-4 and WIRE2-33. */
  async readMessage() {
    for (;;) {
      const size = (await this.stream.read(4)).readUInt32BE();
      if (size === 0) this.stream.fault("a message of no bytes");
      const message = await this.stream.read(size);
      if (message[0] >= 0x80 || message[0] === 0x57) continue; // W: the server is still there
      return { kind: String.fromCharCode(message[0]), body: message.subarray(1) };
    }
  }

  async answer(...kinds) {
    const { kind, body } = await this.readMessage();
    if (kind === "E") {
      if (body[0] === CLOSING_ERROR) this.stream.close();
      throw new ServerError(body[0], body.toString("utf8", 1));
    }
    if (!kinds.includes(kind)) this.stream.fault(`a message ${kind}`);
    return { kind, body };
  }

  /** A sync point, WIRE2-13; from now on the client has heard of all changes up to it. */
  readPoint(body, at = 0) {
    const ends = body.length < at + 13 || body.length < at + 13 + 8 * body.readUInt32BE(at + 9);
    if (ends) this.stream.fault("a message that ends inside its oids");
    this.serial = body.readBigUInt64BE(at + 1);
    const count = body.readUInt32BE(at + 9);
    return { everything: (body[at] & 1) !== 0, oids: splitOids(body.subarray(at + 13, at + 13 + 8 * count)) };
  }

  async newOids(count) {
    const oids = [];
    for (let left = count; left > 0; left -= MOST_NEW_OIDS) {
      this.send("N", u16(Math.min(left, MOST_NEW_OIDS)));
      oids.push(...splitOids((await this.answer("N")).body));
    }
    if (oids.length !== count) this.stream.fault(`${oids.length} new oids in place of ${count}`);
    return oids;
  }

  async load(oid) {
    return (await this.loadMany([oid]))[0];
  }

  /**
   * The records of oids, in as many requests as the limit of the server requires, WIRE2-2. `ahead` is how many more it
   * may send, which this client does not keep.
   */
  async loadMany(oids, ahead = 0) {
    const most = Math.max(this.limits.load, 1);
    const found = [];
    for (let at = 0; at < oids.length; at += most) found.push(...(await this.loadPart(oids.slice(at, at + most), ahead)));
    return found;
  }

  async loadPart(oids, ahead) {
    this.send("L", u16(ahead), joinOids(oids));
    const found = [];
    for (;;) {
      const { kind, body } = await this.answer("R", "r");
      for (let at = 0; at < body.length; ) {
        const status = String.fromCharCode(body[at++]);
        if (status === "O") {
          const end = at + 4 + (at + 4 <= body.length ? body.readUInt32BE(at) : 0);
          if (end > body.length) this.stream.fault("a message that ends inside a record");
          found.push(body.subarray(at + 4, end));
          at = end;
        } else if (status === "I" || status === "K") found.push(status === "I" ? INVALID : null);
        else this.stream.fault(`a load answer ${status}`);
      }
      if (kind === "R") break;
    }
    if (found.length < oids.length) this.stream.fault("too few records");
    return found.slice(0, oids.length);
  }

  async sync() {
    this.send("S");
    return this.readPoint((await this.answer("Y")).body);
  }

  async takeTurn(exclusive = true) {
    this.send("T", Buffer.from([exclusive ? 1 : 0]));
    return this.readPoint((await this.answer("Y")).body);
  }

  giveUpTurn() {
    this.send("U");
  }

  async commit({ accessed, records }) {
    if (accessed.size <= this.limits.accessed) return this.sendCommit(accessed, records);
    const invalid = await this.takeTurn(false); // WIRE2-21
    const conflicts = invalid.everything ? [...accessed] : invalid.oids.filter((oid) => accessed.has(oid));
    if (conflicts.length) {
      this.giveUpTurn();
      return { stored: false, conflicts, invalid };
    }
    const outcome = await this.sendCommit(new Set(), records, true);
    const oids = [...invalid.oids, ...outcome.invalid.oids];
    return { ...outcome, invalid: { everything: outcome.invalid.everything, oids } };
  }

  /** The whole of a commit in one message, WIRE2-20. */
  async sendCommit(accessed, records, compared = false) {
    const oids = sortedOids(accessed);
    const narrow = oids.length > 0 && oids.at(-1) < 2n ** 32n;
    const parts = Array.from(records.values(), (record) => Buffer.concat([u32(record.length), record]));
    const data = Buffer.concat(parts);
    if (data.length > this.limits.commit) throw new DurusError(`a commit of ${data.length} bytes is too large for the server`);
    const head = [Buffer.from([compared ? 1 : 0]), u64(this.serial), Buffer.from([narrow ? 4 : 8]), u32(oids.length)];
    try {
      this.send("C", ...head, narrow ? Buffer.concat(oids.map((oid) => u32(Number(oid)))) : joinOids(oids), data);
      return this.readOutcome(await this.answer("C", "X"));
    } catch (error) {
      if (!(error instanceof LostConnectionError)) throw error;
      throw new UnknownOutcomeError(`${error.message}; the commit is stored completely or not at all`, { cause: error });
    }
  }

  readOutcome({ kind, body }) {
    if (kind === "C") return { stored: true, conflicts: [], invalid: this.readPoint(body) };
    const oidsEnd = 4 + 8 * body.readUInt32BE(0);
    const textEnd = oidsEnd + 2 + body.readUInt16BE(oidsEnd);
    return {
      stored: false,
      conflicts: splitOids(body.subarray(4, oidsEnd)),
      text: body.toString("utf8", oidsEnd + 2, textEnd),
      invalid: this.readPoint(body, textEnd),
    };
  }

  /** Ask for a pack; returns when it has ended, WIRE2-30. */
  async pack() {
    this.send("P", Buffer.from([1]));
    await this.answer("O");
  }

  /** Whether the server is there, WIRE2-31. */
  async ping(bytes = Buffer.from("ping")) {
    this.send("G", bytes);
    return (await this.answer("G")).body;
  }

  close() {
    this.stream.close(Buffer.concat([u32(1), Buffer.from(".")]));
  }
}
