/**
 * A storage of a server. The first request settles the version of the protocol, WIRE2-1.
 */

import { u32 } from "./bytes.js";
import { Protocol1 } from "./wire1.js";
import { Protocol2 } from "./wire2.js";
import { WireStream } from "./wire_stream.js";

export const DEFAULT_PORT = 2972;

/**
 * Connect to a server.
 *
 * @param {{host?: string, port?: number}|{path: string}} address a Unix socket's path may begin with `@`, for an abstract name
 * @param {{protocol?: 1|2, timeout?: number}} options `protocol` is the latest version to speak
 * @returns {Promise<Protocol1|Protocol2>} a storage, as storage.js describes it
 */
export async function connectToServer(address, { protocol = 2, timeout } = {}) {
  const where = address.path?.startsWith("@") ? { path: `\0${address.path.slice(1)}` } : address;
  for (let version = protocol; ; version = 1) {
    const stream = await WireStream.open(where, timeout);
    stream.write(Buffer.from("V"), u32(version));
    const spoken = (await stream.read(4)).readUInt32BE();
    if (spoken === version) return version === 2 ? new Protocol2(stream).begin() : new Protocol1(stream);
    stream.close(); // a server of version 1 has closed it, too
    if (spoken !== 1) stream.fault(`version ${spoken}`);
  }
}
