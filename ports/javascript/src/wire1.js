/**
 * The requests of version 1 of the wire protocol: wire.md.
 */

import { joinOids, sortedOids, splitOids, u32, u64 } from "./bytes.js";
import { LostConnectionError, UnknownOutcomeError } from "./errors.js";
import { splitRecord } from "./record.js";
import { INVALID } from "./storage.js";

const letter = (text) => Buffer.from(text, "latin1");
const MOST_OIDS = 255;

export class Protocol1 {
  constructor(stream) {
    this.stream = stream;
  }

  async readOids(count) {
    return splitOids(await this.stream.read(8 * count));
  }

  async readInvalid() {
    const count = (await this.stream.read(4)).readUInt32BE();
    return { everything: false, oids: await this.readOids(count) };
  }

  async newOids(count) {
    const oids = [];
    for (let left = count; left > 0; left -= MOST_OIDS) {
      const part = Math.min(left, MOST_OIDS);
      this.stream.write(part === 1 ? letter("N") : Buffer.concat([letter("M"), Buffer.from([part])]));
      oids.push(...(await this.readOids(part)));
    }
    return oids;
  }

  async load(oid) {
    this.stream.write(letter("L"), u64(oid));
    return this.readLoad();
  }

  async loadMany(oids) {
    this.stream.write(letter("B"), u32(oids.length), joinOids(oids));
    const found = [];
    for (let left = oids.length; left > 0; left--) found.push(await this.readLoad());
    return found;
  }

  /** The load answer, WIRE-6. */
  async readLoad() {
    const status = String(await this.stream.read(1));
    if (status === "I") return INVALID;
    if (status === "K") return null;
    if (status !== "O") return this.stream.fault(`a load answer ${status}`);
    return this.stream.read((await this.stream.read(4)).readUInt32BE());
  }

  async sync() {
    this.stream.write(letter("S"));
    return this.readInvalid();
  }

  /** Wait for the turn to commit, WIRE-9. Next comes `sendCommit` or `giveUpCommit`. */
  async beginCommit() {
    this.stream.write(letter("C"));
    return this.readInvalid();
  }

  giveUpCommit() {
    this.stream.write(u32(0));
  }

  /** The data of the commit, WIRE-10; returns whether it is stored. */
  async sendCommit(records) {
    const entries = Array.from(records, ([oid, record]) => Buffer.concat([u32(8 + record.length), u64(oid), record]));
    const data = Buffer.concat(entries);
    try {
      this.stream.write(u32(data.length), data);
      return await this.readStatus();
    } catch (error) {
      if (!(error instanceof LostConnectionError)) throw error;
      throw new UnknownOutcomeError(`${error.message}; the commit is stored completely or not at all`, { cause: error });
    }
  }

  async readStatus() {
    const status = String(await this.stream.read(1));
    if (status !== "O" && status !== "I") this.stream.fault(`a status ${status}`);
    return status === "O";
  }

  async commit({ accessed, records }) {
    const invalid = await this.beginCommit();
    const conflicts = invalid.oids.filter((oid) => accessed.has(oid));
    if (conflicts.length) {
      this.giveUpCommit();
      return { stored: false, conflicts, invalid };
    }
    if (await this.sendCommit(records)) return { stored: true, conflicts, invalid };
    const later = await this.sync(); // WIRE-11
    const oids = sortedOids(new Set([...invalid.oids, ...later.oids]));
    const used = new Set(accessed);
    for (const record of records.values()) for (const oid of splitRecord(record).refs) used.add(oid); // TXN-25
    return { stored: false, conflicts: oids.filter((oid) => used.has(oid)), invalid: { everything: false, oids } };
  }

  /** Ask for a pack; returns when it has begun, WIRE-12. */
  async pack() {
    this.stream.write(letter("P"));
    await this.readStatus();
  }

  close() {
    this.stream.close(letter("."));
  }
}
