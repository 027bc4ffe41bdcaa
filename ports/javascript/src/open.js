/**
 * Opening a database by its path or its address, DB-1.
 */

import { connectToServer, DEFAULT_PORT } from "./client_storage.js";
import { Connection } from "./connection.js";
import { FileStorage } from "./file_storage.js";

/**
 * Open a database.
 *
 * @param {string} where a path, `file:path`, `durus://host:port` or `durus+unix:path`
 * @param {object} options those of FileStorage or connectToServer, and `cacheSize`
 * @returns {Promise<Connection>}
 */
export async function open(where, options = {}) {
  return Connection.open(await openStorage(where, options), options);
}

export async function openStorage(where, options = {}) {
  const [, scheme, rest] = /^([a-z][a-z0-9+.-]*):(.*)$/is.exec(where) ?? [];
  switch (scheme) {
    case "durus": {
      const { hostname, port } = new URL(where);
      return connectToServer({ host: hostname.replace(/^\[|\]$/g, ""), port: Number(port || DEFAULT_PORT) }, options);
    }
    case "durus+unix":
      return connectToServer({ path: decodeURIComponent(rest) }, options);
    case "file":
      return new FileStorage(decodeURIComponent(rest.replace(/^\/\/(localhost)?(?=\/)/, "")), options);
    default:
      return new FileStorage(where, options);
  }
}
