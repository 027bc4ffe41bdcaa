"""Object state <-> the data and refs of a record. Statements REC-10 to REC-17.

The reader makes ghosts and fills them, the writer turns changed objects, and the new ones that
they reach, into records.  Neither knows storages or transactions.
"""

import copyreg
import io
import pickle
import sys
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from durus.broken import BrokenObject, broken_class
from durus.cache import Cache
from durus.error import (
    ClassNotFoundError,
    DurusError,
    ForeignReferenceError,
    RecordError,
    StateError,
    UnstorableError,
)
from durus.explain import unstorable
from durus.oid import format_oid
from durus.persistent import (
    SAVED,
    ConnectionBase,
    PersistentBase,
    PersistentObject,
    has_plain_state,
    new_ghost,
    persistent_id_by,
    set_slot,
    take_state,
)
from durus.record import (
    class_pickle_of,
    extract_class_name,
    join_refs,
    pack_record,
    parse_class_pickle,
    split_oids,
    unpack_record,
)

PICKLE_PROTOCOL = 4
"""The highest that every Python that Durus 4.3 runs on can read. [REC-11]"""

_ZLIB_START = b"x"
_COMPRESS_FROM = 512
"""Shorter states gain little from compression, and it takes longer than all else in a commit."""


_REUSE_BELOW = 1000
"""A pickler that has made a longer pickle has a larger memo, and that takes longer to clear than a new one to make."""


class ObjectReader:
    """Makes ghosts and loads their states for one connection."""

    def __init__(self, connection: ConnectionBase, cache: Cache, get: Callable[[bytes], PersistentObject | None]):
        self._connection = connection
        self._cache = cache
        self._get = get
        self._broken: dict[tuple[str, str], type[BrokenObject]] = {}
        self._classes: dict[bytes, _RememberedClass] = {}
        """What class pickles in GLOBAL form mean."""
        self._last: _RememberedClass | None = None
        """The one among them that was met last."""
        self._unpickler, self._nested_unpickler = _Unpickler.of(self), _NestedUnpickler.of(self)
        self.load_count = 0

    def ghost_of_record(self, oid: bytes, data: bytes) -> PersistentObject:
        """Return the object of `oid`: the one in memory, or a new ghost of the class that `data` names."""
        obj = self._cache.get(oid)
        return self._new_ghost(oid, self._split(oid, data)[0]) if obj is None else obj

    def class_of_record(self, oid: bytes, data: bytes) -> type[PersistentObject]:
        """Return the class that `data` names, a subclass of BrokenObject if it can't be imported."""
        return self._split(oid, data)[0]

    def load_state(self, obj: PersistentObject, data: bytes) -> None:
        """Give a ghost the state in `data`. StateError where that does not go; it stays a ghost then."""
        oid = _oid_of(obj)
        cls, state_pickle = self._split(oid, data)
        try:
            state = self._unpickle(state_pickle)
            self._set_state(obj, state)
        except ClassNotFoundError as error:
            raise ClassNotFoundError(f"oid {format_oid(oid)} ({_name(cls)}): {error}", name=error.name) from error
        except DurusError:
            raise
        except Exception as error:
            raise StateError(
                f"oid {format_oid(oid)} ({_name(cls)}): its state can't be loaded: {type(error).__name__}: {error}"
            ) from error
        self.load_count += 1

    def find_class(self, module: str, name: str, find: Callable[[str, str], Any]) -> Any:
        """Return what `find` does, or a class that stands for a missing one. It is imported only once. [OBJ-28]"""
        known = self._broken.get((module, name))
        try:
            if known is None:
                return find(module, name)
        except Exception as error:  # a module of an application may raise anything when it is imported
            known = self._stand_in(module, name, error)
        found = _find_imported(module, name)
        return known if found is None else found

    def get_attribute(self, owner: object, name: str) -> Any:
        """Return what getattr() does, or a class that stands for a missing nested one."""
        try:
            return getattr(owner, name)
        except AttributeError as error:
            if not isinstance(owner, type):
                raise
            return self._stand_in(owner.__module__, f"{owner.__qualname__}.{name}", error)

    def _stand_in(self, module: str, name: str, error: Exception) -> type[BrokenObject]:
        broken = self._broken.get((module, name))
        if broken is None:
            broken = self._broken[module, name] = broken_class(module, name, error)
        return broken

    def has_broken_classes(self) -> bool:
        """Tell if any class that was looked for was missing.

        It stays so when that class is imported later, since stand-ins for it may still be in memory. All further
        commits of the connection are therefore pickled by the slower pickler that is written in Python.
        """
        return bool(self._broken)

    def get_referenced(self, reference: object) -> PersistentObject:
        """Return the object, a ghost if need be, that a reference in a state pickle means. [REC-14]"""
        if not (isinstance(reference, tuple) and len(reference) == 2):
            raise RecordError(f"a reference must be a pair of oid and class, not {reference!r}")
        oid, cls = reference
        if not (isinstance(oid, bytes) and len(oid) == 8 and isinstance(cls, type)):
            raise RecordError(f"a reference must be a pair of 8-byte oid and class, not {reference!r}")
        obj = self._cache.get(oid)
        if obj is None and issubclass(cls, BrokenObject):
            # The class may have moved since the reference was stored; the record knows.
            obj = self._get(oid)
        return self._new_ghost(oid, cls) if obj is None else obj

    def _new_ghost(self, oid: bytes, cls: type) -> PersistentObject:
        if not issubclass(cls, PersistentObject):
            raise StateError(f"oid {format_oid(oid)}: its class {_name(cls)} is not a subclass of PersistentObject")
        ghost = new_ghost(cls, oid, self._connection)
        self._cache.add(oid, ghost)
        return ghost

    def _set_state(self, obj: PersistentObject, state: object) -> None:
        try:
            take_state(obj, state, has_plain_state(type(obj)))
        except BaseException:
            PersistentObject._p_set_status_ghost(obj)  # an interrupt may come when it counts as loaded already
            raise

    def _split(self, oid: bytes, data: bytes) -> tuple[type[PersistentObject], bytes]:
        """Return the class that `data` names, and bytes whose last pickle is the state. [REC-12]"""
        last = self._last
        if last is not None and data.startswith(last.class_pickle) and last.is_current():
            state = decompress_state(data[last.end :])
            return last.cls, data[: last.end] + state if last.keep else state
        class_pickle = class_pickle_of(data)
        remembered = self._classes.get(class_pickle) if class_pickle is not None else None
        if remembered is not None and remembered.is_current():
            self._last = remembered
            state = decompress_state(data[remembered.end :])
            return remembered.cls, data[: remembered.end] + state if remembered.keep else state
        known = parse_class_pickle(data)
        try:
            if known is not None:
                cls, end, keep = self._unpickle(data[: known.end]), known.end, known.has_memo
            else:
                (cls, end), keep = self._try_unpickle(data, first_only=True), True
        except DurusError:
            raise
        except Exception as error:
            raise RecordError(f"oid {format_oid(oid)}: its class can't be read: {error}") from error
        if not isinstance(cls, type):
            raise RecordError(f"oid {format_oid(oid)}: its record names {cls!r} where a class must stand")
        if known is not None and class_pickle is not None:
            self._classes[class_pickle] = _RememberedClass(class_pickle, known.module, known.name, cls, end, keep)
        state = decompress_state(data[end:])
        return cls, data[:end] + state if keep else state

    def _unpickle(self, pickles: bytes) -> Any:
        """Return the value of the last of some pickles that share one memo."""
        return self._try_unpickle(pickles, first_only=False)[0]

    def _try_unpickle(self, pickles: bytes, first_only: bool) -> tuple[Any, int]:
        """Return the value of the last of some pickles that share one memo, or of the first, and where that ends."""
        try:
            return _load(self._unpickler, pickles, first_only)
        except AttributeError:  # it may be that getattr() does not find a nested class
            return _load(self._nested_unpickler, pickles, first_only)


class _RememberedClass(NamedTuple):
    """What a class pickle meant when it was read last."""

    class_pickle: bytes
    module: str
    name: str
    cls: type[PersistentObject]
    end: int
    keep: bool
    """The state may refer to what the class pickle put into the memo."""

    def is_current(self) -> bool:
        """Tell if the name stands for the same class still; applications put others in its place to rename one."""
        found = _find_imported(self.module, self.name)
        return found is self.cls or (found is None and issubclass(self.cls, BrokenObject))


class _Unpickler(pickle.Unpickler):
    """Each reader has a subclass of its own: that costs less than an __init__() for each record."""

    _reader: ObjectReader

    @classmethod
    def of(cls, reader: ObjectReader) -> "type[_Unpickler]":
        """Return the class for a reader."""
        return type(cls.__name__, (cls,), {"_reader": reader, "persistent_load": staticmethod(reader.get_referenced)})

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstructor" and module in ("copyreg", "copy_reg"):
            return _reconstruct
        return self._reader.find_class(module, name, super().find_class)


def _reconstruct(cls: type, base: type, state: object) -> object:
    """Make the instance of a class for which pickles of protocols 0 and 1 call copyreg, past its __new__. [OBJ-29]"""
    if issubclass(cls, BrokenObject):
        return cls()  # raises
    return copyreg._reconstructor(cls, base, state)  # type: ignore[attr-defined]  # not in the stubs


class _NestedUnpickler(_Unpickler):
    """Takes what getattr(), which pickles of protocols 0 to 3 call for a nested class, does not find for a missing one.

    It is not used from the start, since a state may hold the function getattr itself.
    """

    def find_class(self, module: str, name: str) -> Any:
        if name == "getattr" and module in ("builtins", "__builtin__"):
            return self._reader.get_attribute
        return super().find_class(module, name)


def _load(unpickler_class: type[_Unpickler], pickles: bytes, first_only: bool) -> tuple[Any, int]:
    file = io.BytesIO(pickles)
    unpickler = unpickler_class(file)
    value = unpickler.load()
    while not first_only and file.tell() < len(pickles):
        value = unpickler.load()
    return value, file.tell()


class ObjectWriter:
    """Turns the changed objects of one connection, and the new ones that they reach, into records."""

    def __init__(
        self,
        connection: ConnectionBase,
        root: PersistentObject,
        new_oid: Callable[[], bytes],
        has_broken_classes: bool,
    ) -> None:
        self._connection = connection
        self._root = root
        self._new_oid = new_oid
        self._pickler_class = _PurePickler if has_broken_classes else _Pickler
        self._file = io.BytesIO()
        self._pickler: _Pickler | _PurePickler | None = None
        self._pending: deque[tuple[PersistentObject, bytes]] = deque()
        self._refs: set[bytes] = set()
        self._current: PersistentObject | None = None
        self.new_objects: dict[int, tuple[bytes, PersistentObject]] = {}
        """By id(): the new objects that were found, each with the oid that it is to have."""

    def records(
        self, objects: Iterable[tuple[PersistentObject, bytes]]
    ) -> Iterator[tuple[PersistentObject, bytes, bytes]]:
        """Yield (object, oid, record) for the (object, oid) pairs given and all new objects reached. [TXN-8]

        UnstorableError if a state can't be pickled, ForeignReferenceError for an object of another connection.
        """
        try:
            for pair in objects:
                self._pending.append(pair)
                while self._pending:
                    obj, oid = self._pending.popleft()
                    yield obj, oid, self._record(obj, oid)
        finally:
            self._pickler = None  # which holds this writer, and the last object

    def _record(self, obj: PersistentObject, oid: bytes) -> bytes:
        self._current = obj
        self._refs = set()
        try:
            state = obj.__getstate__()
            if obj._p_connection is not None:
                set_slot(obj, "_p_status", SAVED)  # so that a change from here on is noted as one more [TXN-37]
            data = class_pickle(type(obj)) + compress_state(self.pickle(state))
        except DurusError:
            raise
        except Exception as error:
            raise UnstorableError(unstorable(obj, self._root, self.pickle, error)) from error
        return pack_record(oid, data, join_refs(oid, self._refs))

    def pickle(self, value: object) -> bytes:
        """Return the pickle of a value, with references in place of persistent objects."""
        pickler, self._pickler = self._pickler or self._pickler_class(self._file, self.reference), None
        self._file.seek(0)
        self._file.truncate()
        pickler.clear_memo()
        pickler.dump(value)
        pickled = self._file.getvalue()
        if len(pickled) < _REUSE_BELOW:
            self._pickler = pickler
        return pickled

    def reference(self, obj: PersistentBase) -> tuple[bytes, type]:
        """Return what stands for a persistent object in a state pickle. [REC-14]"""
        if not isinstance(obj, PersistentObject):
            raise UnstorableError(f"{type(obj).__name__} is not a subclass of PersistentObject")
        connection = obj._p_connection
        if connection is None:
            known = self.new_objects.get(id(obj))
            oid = known[0] if known else self._take_in(obj)
        elif connection is not self._connection:
            raise ForeignReferenceError(
                f"{self._current!r} refers to {obj!r}, which belongs to another connection; "
                "store a copy of it, or its oid, instead"
            )
        else:
            oid = _oid_of(obj)
        self._refs.add(oid)
        return oid, type(obj)

    def _take_in(self, obj: PersistentObject) -> bytes:
        oid = self._new_oid()
        self.new_objects[id(obj)] = (oid, obj)
        self._pending.append((obj, oid))
        return oid


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, reference: Callable[[PersistentBase], object]) -> None:
        # Ahead of the base class, which looks it up. It is no method: that saves a call per value.
        self.persistent_id = persistent_id_by(reference)  # type: ignore[method-assign]
        super().__init__(file, PICKLE_PROTOCOL)


class _PurePickler(pickle._Pickler):
    """Also writes references to classes that can't be imported; used only when there are such."""

    def __init__(self, file: io.BytesIO, reference: Callable[[PersistentBase], object]) -> None:
        super().__init__(file, PICKLE_PROTOCOL)
        self.persistent_id = persistent_id_by(reference)  # type: ignore[assignment,method-assign]  # as above

    def save_global(self, obj: Any, name: str | None = None) -> None:
        if isinstance(obj, type) and issubclass(obj, BrokenObject) and obj is not BrokenObject:
            self.write(pickle.GLOBAL + _global_names(obj))  # type: ignore[attr-defined]  # not in the stubs
            self.memoize(obj)  # type: ignore[attr-defined]  # not in the stubs
        else:
            super().save_global(obj, name)  # type: ignore[misc]  # not in the stubs


_class_pickles: WeakKeyDictionary[type, bytes] = WeakKeyDictionary()


def class_pickle(cls: type) -> bytes:
    """Return the pickle of a class in GLOBAL form without memo. [REC-10]

    pickle.PicklingError if the class can't be found again under its name.
    """
    found = _class_pickles.get(cls)
    if found is None:
        if not issubclass(cls, BrokenObject):
            _check_importable(cls)
        found = pickle.PROTO + bytes([PICKLE_PROTOCOL]) + pickle.GLOBAL + _global_names(cls) + pickle.STOP
        _class_pickles[cls] = found
    return found


def compress_state(state: bytes) -> bytes:
    """Return a state pickle as it is stored: as a zlib stream where that is notably shorter. [REC-13]"""
    if len(state) < _COMPRESS_FROM:
        return state
    compressed = zlib.compress(state, 1)
    return compressed if len(compressed) < len(state) * 3 // 4 else state


def decompress_state(stored: bytes) -> bytes:
    """Return the state pickle from its stored form. [REC-13]"""
    if stored[:1] == _ZLIB_START:
        try:
            return zlib.decompress(stored)
        except zlib.error:
            return stored
    return stored


def _global_names(cls: type) -> bytes:
    return f"{cls.__module__}\n{cls.__qualname__}\n".encode()


def _find_imported(module: str, name: str) -> object:
    """Return what a qualified name stands for in a module that is imported, None if there is nothing."""
    try:
        found: object = sys.modules[module]
        for part in name.split(".") if "." in name else (name,):
            found = getattr(found, part)
    except Exception:  # a module's own __getattr__ may import others, and so raise anything
        return None
    return found


def _check_importable(cls: type) -> None:
    if _find_imported(cls.__module__, cls.__qualname__) is not cls:
        raise pickle.PicklingError(
            f"the class {cls.__qualname__} is not found under that name in the module {cls.__module__}; "
            "define it at the top level of a module"
        )


def _oid_of(obj: PersistentObject) -> bytes:
    oid = obj._p_oid
    if oid is None:
        raise StateError(f"{obj!r} belongs to a connection, but has no oid")
    return oid


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


__all__ = [
    "ObjectReader",
    "ObjectWriter",
    "class_pickle",
    "compress_state",
    "decompress_state",
    "extract_class_name",
    "pack_record",
    "split_oids",
    "unpack_record",
]
