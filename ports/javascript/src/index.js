/** Durus databases in JavaScript; README.md shows how to use them. */

export { Connection } from "./connection.js";
export * from "./errors.js";
export { FileStorage, checkFile } from "./file_storage.js";
export { connectToServer } from "./client_storage.js";
export { open, openStorage } from "./open.js";
export { GHOST, PersistentDict, PersistentList, PersistentObject, PersistentSet, SAVED, UNSAVED } from "./persistent.js";
export { ROOT_OID, makeRecord, readRecord, splitRecord } from "./record.js";
export { Float, FrozenSet, Global, PythonObject, Ref, Tuple } from "./values.js";
