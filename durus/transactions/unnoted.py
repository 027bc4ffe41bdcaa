"""Finds changes that nobody noted, in connections with debug=True. Statements OBJ-85 to OBJ-88.

The record of each loaded object is kept. A state whose pickle equals that of its record has not changed. If the pickles
differ, the record is loaded once more, apart from the connection, and the two states are compared part by part, because
different pickles may mean the same.
"""

import os
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple, TypeAlias

from durus.error import (
    ArgumentError,
    DurusError,
    DurusKeyError,
    UnnotedChangeError,
    UnnotedChangeWarning,
    text_of_unnoted,
)
from durus.objects.cache import Cache
from durus.objects.difference import Difference, differences
from durus.objects.pickling import REFUSALS, class_pickle
from durus.objects.trust import Trust
from durus.oid import format_oid
from durus.persistent import ConnectionBase, PersistentBase, PersistentObject, State, get_slot, set_slot
from durus.records.record import class_pickle_of, pack_record, unpack_record
from durus.records.stored_state import decompress_state
from durus.serialize import ObjectReader, ObjectWriter, RecordConnection
from durus.text import printable

Debug: TypeAlias = Literal["warn"] | bool


def debug_mode(debug: Debug | None) -> Debug:
    """Return what a connection is to do about changes that were not noted, by its argument or by DURUS_DEBUG.

    ArgumentError for anything but True, False and "warn", or 1, 0, warn and nothing in the environment.
    """
    if debug is None:
        told = os.environ.get("DURUS_DEBUG", "")
        known: dict[str, Debug] = {"": False, "0": False, "1": True, "warn": "warn"}
        if told not in known:
            raise ArgumentError(
                f"DURUS_DEBUG is {told!r} in the environment: set it to '1' or 'warn', or leave it unset"
            )
        return known[told]
    if debug not in (True, False, "warn"):
        raise ArgumentError(f"debug is True, False or 'warn', not {debug!r}")
    return debug


class UnnotedChange(NamedTuple):
    """An object whose state differs from the stored one."""

    oid: bytes
    text: str


class UnnotedChanges:
    """Finds the loaded objects of a connection whose state differs from the stored one without a noted change."""

    def __init__(
        self,
        connection: ConnectionBase,
        cache: Cache,
        get: Callable[[bytes], PersistentObject | None],
        mode: Debug,
        trust: Trust | None = None,
    ) -> None:
        self._connection = connection
        self._cache = cache
        self._mode = mode
        self._known: dict[bytes, bytes] = {}
        """The data of the record of each loaded object, by oid, or equivalent data."""
        self._told: list[UnnotedChange] = []
        """What an error has reported since the transaction began."""
        self.reader: ObjectReader = _KeepingReader(connection, cache, get, self._known, trust)
        """Loads all states of the connection."""

    def note_stored(self, records: Iterable[tuple[bytes, bytes]]) -> None:
        """Take note of records, as (oid, record), that were stored for objects of the connection."""
        for oid, record in records:
            self._known[oid] = unpack_record(record)[1]

    def check(self) -> None:
        """Raise UnnotedChangeError if there are changes that nobody noted, or warn of them once."""
        self.report(self.find())

    def report(self, found: list[UnnotedChange]) -> None:
        """Raise UnnotedChangeError for changes, or warn of them."""
        self._told = found
        if found and self._mode != "warn":
            raise UnnotedChangeError(change.text for change in found)
        if found:
            self.warn(found)
        for change in found:
            self._known.pop(change.oid, None)  # so that it is reported once
        self._told = []

    def take_untold(self, found: list[UnnotedChange]) -> list[UnnotedChange]:
        """Return those of the changes that no error of this transaction has reported, at its end. [OBJ-86]"""
        told, self._told = self._told, []
        return [change for change in found if change not in told]

    def warn(self, found: list[UnnotedChange]) -> None:
        """Warn of changes; UnnotedChangeError if the application turns these warnings into errors."""
        texts = [change.text for change in found]
        try:
            warnings.warn(UnnotedChangeWarning(printable(text_of_unnoted(texts))), stacklevel=_levels_of_durus())
        except UnnotedChangeWarning:
            raise UnnotedChangeError(texts) from None

    def find(self) -> list[UnnotedChange]:
        """Return all changes that nobody noted, in the order of their oids."""
        comparison = _Comparison(self._connection, self._known, self.reader)
        loaded: dict[bytes, bytes] = {}
        found = []
        for obj in self._cache.loaded_objects():
            oid = obj._p_oid
            if oid is None or oid not in self._known:
                continue
            loaded[oid] = self._known[oid]
            if oid not in self._connection.changed and obj._p_is_saved():
                changes = comparison.changes_of(obj, oid)
                if changes:
                    found.append(UnnotedChange(oid, f"{type(obj).__name__} oid {format_oid(oid)}: {_told(changes)}"))
                else:
                    loaded[oid] = self._known.get(oid, loaded[oid])
        self._known.clear()
        self._known.update(loaded)  # without those of objects that have become ghosts
        return sorted(found)


def _levels_of_durus() -> int:
    """Return the stack level of the application, for a warning of the calling function."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith("durus."):
        frame, level = frame.f_back, level + 1
    return level


def _told(changes: list[Difference]) -> str:
    more = f", and {len(changes) - 3} more" if len(changes) > 3 else ""
    return ", ".join(f"{''.join(change.path)} {change.what}".strip() for change in changes[:3]) + more


class _KeepingReader(ObjectReader):
    """Keeps the data that each object was loaded from."""

    def __init__(
        self,
        connection: ConnectionBase,
        cache: Cache,
        get: Callable[[bytes], PersistentObject | None],
        known: dict[bytes, bytes],
        trust: Trust | None,
    ) -> None:
        super().__init__(connection, cache, get, trust=trust)
        self._states = None
        self._known = known

    def load_state(self, obj: PersistentObject, data: bytes) -> None:
        if obj._p_oid is not None:
            self._known[obj._p_oid] = data
        super().load_state(obj, data)


class _Comparison:
    """Compares the states of objects with the records that they were loaded from."""

    def __init__(self, connection: ConnectionBase, known: dict[bytes, bytes], reader: ObjectReader) -> None:
        self._known = known
        self._trust = reader.trust
        self._pickler = _ReferringWriter(connection, reader.has_broken_classes())

    def changes_of(self, obj: PersistentObject, oid: bytes) -> list[Difference]:
        """Return how the state of an object differs from its record; nothing if that is unknown. [OBJ-87]"""
        data = self._known[oid]
        try:
            state = _state_of(obj)
            pickled = self._pickled(obj, state)
            if pickled and pickled == _plain(data):
                return []
            found = self._differences(obj, oid, state, pickled)
        except (DurusError, *REFUSALS):
            return []
        if not found and pickled:
            self._known[oid] = pickled  # so that the next comparison finds it at once
        return found

    def _pickled(self, obj: PersistentObject, state: State) -> bytes:
        """Return the record data of a state, None if it can't be pickled."""
        try:
            return class_pickle(type(obj)) + self._pickler.pickle(state)
        except (DurusError, *REFUSALS):
            return b""

    def _differences(self, obj: PersistentObject, oid: bytes, state: State, pickled: bytes) -> list[Difference]:
        """Return how a state differs, both as it is and after pickling and loading it."""
        cls, data = type(obj), self._known[oid]
        before = self._loaded(oid, data)
        found = differences(cls, before, state)
        if not found:
            return found
        ignored = _attributes(differences(cls, before, self._loaded(oid, data)))  # it differs each time
        if pickled:
            try:
                after = self._loaded(oid, pickled)
                again = self._loaded(oid, self._pickled(obj, _state_of(obj)))
            except (DurusError, *REFUSALS):  # it refers to new objects, and needs them
                pass
            else:
                ignored |= _attributes(differences(cls, after, again))
                ignored |= _attributes(found) - _attributes(differences(cls, before, after))
        return [change for change in found if not ignored & {(), change.path[:1]}]

    def _loaded(self, oid: bytes, data: bytes) -> State:
        """Return the state of an object, loaded from `data` apart from all other objects."""
        apart = RecordConnection({oid: pack_record(oid, data, b"")}, self._record, trust=self._trust)
        obj = apart.get(oid)
        if obj is None:
            raise DurusKeyError(oid)
        apart.load_state(obj)
        return obj.__getstate__()

    def _record(self, oid: bytes) -> bytes:
        if oid not in self._known:
            raise DurusKeyError(oid)
        return pack_record(oid, self._known[oid], b"")


class _ReferringWriter(ObjectWriter):
    """Pickles states, and gives no oids to new objects."""

    def __init__(self, connection: ConnectionBase, is_careful: bool) -> None:
        super().__init__(connection, PersistentObject(), bytes, is_careful)

    def reference(self, obj: PersistentBase) -> tuple[bytes, type]:
        return obj._p_oid or (1 << 63 | id(obj)).to_bytes(8, "big"), type(obj)


def _attributes(changes: list[Difference]) -> set[tuple[str, ...]]:
    """Return the attributes that differ; the empty path means all of them."""
    return {change.path[:1] for change in changes}


def _plain(data: bytes) -> bytes:
    """Return the data of a record with its state uncompressed; None if its class is not in the usual form."""
    pickled = class_pickle_of(data)
    return b"" if pickled is None else pickled + decompress_state(data[len(pickled) :])


def _state_of(obj: PersistentObject) -> State:
    """Return the state of an object; this is not an access."""
    connection = get_slot(obj, "_p_connection")
    set_slot(obj, "_p_connection", None)
    try:
        return obj.__getstate__()
    finally:
        set_slot(obj, "_p_connection", connection)
