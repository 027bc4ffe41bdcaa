/**
 * The bytes between a client and a server, over TCP or a Unix socket. WIRE-1 and WIRE-25.
 */

import { connect } from "node:net";
import { LostConnectionError } from "./errors.js";

export class WireStream {
  #socket;
  #chunks = [];
  #size = 0;
  #lost = null;
  #wake = null;

  constructor(socket, timeout) {
    this.#socket = socket;
    this.timeout = timeout;
    socket.on("data", (chunk) => {
      this.#chunks.push(chunk);
      this.#size += chunk.length;
      this.#wake?.();
    });
    socket.on("error", (error) => this.#lose(error.message));
    socket.on("close", () => this.#lose("the server has closed it"));
  }

  /**
   * @param {{host, port}|{path}} address as of net.connect
   * @param {number} [timeout] how many seconds a read waits for bytes at most
   */
  static open(address, timeout) {
    return new Promise((resolve, reject) => {
      const socket = connect({ ...address, noDelay: true });
      socket.once("connect", () => resolve(new WireStream(socket, timeout)));
      socket.once("error", (error) => reject(new LostConnectionError(`no server can be reached: ${error.message}`)));
    });
  }

  #lose(reason) {
    this.#lost ??= new LostConnectionError(`the connection to the server is lost: ${reason}; open it again`);
    this.#socket.destroy();
    this.#wake?.();
  }

  write(...parts) {
    if (this.#lost) throw this.#lost;
    this.#socket.write(Buffer.concat(parts));
  }

  /** The next bytes; memory for them is taken as they arrive, WIRE-20. */
  async read(count) {
    while (this.#size < count) {
      if (this.#lost) throw this.#lost;
      await this.#more();
    }
    const all = Buffer.concat(this.#chunks, this.#size);
    this.#chunks = [all.subarray(count)];
    this.#size -= count;
    return all.subarray(0, count);
  }

  #more() {
    return new Promise((resolve) => {
      const timer = this.timeout && setTimeout(() => this.#lose("it did not answer in time"), 1000 * this.timeout);
      this.#wake = () => {
        clearTimeout(timer);
        this.#wake = null;
        resolve();
      };
    });
  }

  /** Give up a connection whose other side does not follow the protocol. */
  fault(found) {
    this.#lose(`the server sent what the protocol does not have: ${found}`);
    throw this.#lost;
  }

  /** Say goodbye, unless the connection is lost already. */
  close(goodbye = Buffer.alloc(0)) {
    if (!this.#lost) this.#socket.write(goodbye);
    this.#lost ??= new LostConnectionError("the connection is closed");
    this.#socket.end();
  }
}
