/**
 * What a connection asks of a storage. A storage is an object with these methods, all asynchronous:
 *
 * - `load(oid)`: the record (a Buffer), null if there is none, or INVALID if it has changed (TXN-20)
 * - `newOids(count)`: oids that no object has and that nobody else is given
 * - `sync()`: an Invalid: what others have changed since the last sync
 * - `commit({ accessed, records })`: store records, a Map by oid, for a transaction that has accessed
 *   some oids. Returns `{ stored, conflicts, invalid }`: whether they are stored and durable, if not
 *   the oids in conflict as far as they are known, and an Invalid as from a sync.
 * - `pack()`, `close()`
 * - `takeTurn()`, only where others can be kept from committing until the next commit or
 *   `giveUpTurn()`: a sync with an exclusive turn (TXN-46)
 *
 * An Invalid is `{ everything, oids }`; with `everything`, any oid may have changed (TXN-41).
 */

/** The answer to a load of an oid that has changed since the last sync. */
export const INVALID = Symbol("invalid");

export const NOTHING_CHANGED = Object.freeze({ everything: false, oids: Object.freeze([]) });
