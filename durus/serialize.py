"""Object state <-> the data and refs of a record. Statements REC-10 to REC-17, REC-30 to REC-32, OBJ-63 to OBJ-75
and OBJ-100 to OBJ-105.

The reader makes ghosts and loads their states; the writer turns changed objects, and the new ones that they reach,
into records. Neither knows storages or transactions.
"""

import copyreg
import io
import re
import sys
from abc import ABCMeta
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from durus.error import (
    ClassNotFoundError,
    ConflictError,
    DurusError,
    DurusKeyError,
    ForeignReferenceError,
    RecordError,
    StateError,
    UnstorableError,
    UntrustedClassError,
)
from durus.objects.broken import BrokenObject, BrokenValue, broken_class, broken_value_class
from durus.objects.cache import Cache
from durus.objects.pickling import (
    REFUSALS,
    CarefulPickler,
    FastPickler,
    Reducers,
    class_pickle,
    class_traits,
    find_imported,
    is_pythons_own,
    layout_to_store,
)
from durus.objects.trust import GUARDED, Trust
from durus.objects.trusting import TrustingUnpickler, load_trusted_pickles
from durus.objects.unpickling import (
    ENCODE,
    RENAMED_MODULES,
    VALUE_TYPES,
    CarefulUnpickler,
    FastUnpickler,
    Loading,
    NeedsItself,
    Postponed,
    is_in,
    load_pickles,
)
from durus.objects.unstorable import unstorable, way_to
from durus.oid import format_oid
from durus.persistent import (
    GHOST,
    SAVED,
    ConnectionBase,
    PersistentBase,
    PersistentObject,
    StateReader,
    StateWriter,
    Watch,
    get_slot,
    has_plain_state,
    implementation,
    layout_of,
    new_ghost,
    set_slot,
    take_state,
    told_apart,
)
from durus.records.contents import read_contents
from durus.records.pickle_work import check_work
from durus.records.record import (
    class_pickle_of,
    extract_class_name,
    join_refs,
    pack_record,
    parse_class_pickle,
    split_oids,
    unpack_record,
)
from durus.records.stored_state import COMPRESS_FROM, compress_state, decompress_state
from durus.text import printable

_INTERNAL, _FROZENSET = b"_p_", b"\x91\x94"
_MAKES_FROZENSET = re.compile(rb"\x91\x94(?<!C\x08.{7}\x91\x94)", re.DOTALL).search
"""Finds these two steps, but not at the end of an oid."""

_REUSE_BELOW = 1000
"""A pickler is used again after pickles below this length: clearing a larger memo takes longer than a new pickler."""


class ObjectReader:
    """Makes ghosts and loads their states, for one connection."""

    def __init__(
        self,
        connection: ConnectionBase,
        cache: Cache,
        get: Callable[[bytes], PersistentObject | None],
        is_strict: bool = False,
        trust: Trust | None = None,
    ) -> None:
        """With `is_strict`, a value that its class refuses to make is an error instead of a stand-in.

        With `trust`, nothing else is imported or called for a record. [OBJ-100]
        """
        self._connection = connection
        self._cache = cache
        self._get = get
        self._missing: dict[tuple[str, str], _Missing] = {}
        self._classes: dict[bytes, _RememberedClass] = {}
        """The meanings of class pickles in GLOBAL form."""
        self._last: _RememberedClass | None = None
        """The most recent one of them."""
        self._unpickler = FastUnpickler.of(self)
        self.trust = trust
        self._load_pickles = load_pickles if trust is None else self._load_trusted
        self._loading: Loading | None = None
        self._is_strict = is_strict
        self._helped = 0
        """How often a load needed something that only loading with care does."""
        self.load_count = 0
        self._states: StateReader | None = None
        """Loads states in the usual case, in C; None if that must not be done, or there is no C."""
        if trust is None and implementation == "C":
            self._states = StateReader(
                connection,
                cache,
                PersistentObject,
                layout_of,
                decompress_state,
                RENAMED_MODULES,
                ENCODE,
                VALUE_TYPES,
                DurusError,
            )

    def ghost_of_record(self, oid: bytes, data: bytes) -> PersistentObject:
        """Return the object of `oid`: the one in memory, or a new ghost of the class that `data` names."""
        obj = self._cache.get(oid)
        cls = self._class_at(oid, data).cls
        if obj is None:
            return self._new_ghost(oid, cls)
        if type(obj) is not cls and obj._p_is_ghost():
            _become(obj, cls)
        return obj

    def class_of_record(self, oid: bytes, data: bytes) -> type[PersistentObject]:
        """Return the class that `data` names, a subclass of BrokenObject if it can't be imported."""
        return self._class_at(oid, data).cls

    def load_record(self, obj: PersistentObject, record: bytes) -> None:
        """Load the state in a record into a ghost, and have the cache hold the object; see load_state()."""
        if self._loading is None and self._states is not None and self._states.load(obj, record):
            self.load_count += 1
        else:
            self.load_state(obj, unpack_record(record)[1])
            self._cache.note_loaded(_oid_of(obj), obj)

    def load_state(self, obj: PersistentObject, data: bytes) -> None:
        """Load the state in `data` into a ghost; if that raises StateError, it remains a ghost. [OBJ-71]"""
        outer = self._loading
        is_careful = False
        if outer is not None:
            if is_in(outer, obj):
                raise NeedsItself(obj)
            is_careful = outer[2]
        oid = _oid_of(obj)
        cls, state_pickle = self._read_class(oid, data)
        if type(obj) is not cls:
            _become(obj, cls)
        start = self._last.end if self._last is not None and self._last.state_needs_class_pickle else 0
        self._loading = obj, outer, is_careful
        outside = None
        try:
            try:
                if is_careful:
                    self._load_with_care(obj, state_pickle, start)
                else:
                    self._set_state(obj, self._load_pickles(self._unpickler, state_pickle, False, start)[0], ())
            except (NeedsItself, *REFUSALS) as error:
                if is_careful or (isinstance(error, NeedsItself) and error.obj is not obj):
                    raise
                self._loading = obj, outer, True
                if not self._load_with_care(obj, state_pickle, start) and not isinstance(error, NeedsItself):
                    obj._p_set_status_ghost()
                    outside = error
                    raise
        except ClassNotFoundError as error:
            raise ClassNotFoundError(f"oid {format_oid(oid)} ({_name(cls)}): {error}", name=error.name) from error
        except NeedsItself as error:
            if error.obj is not obj:
                raise
            raise StateError(
                f"oid {format_oid(oid)} ({_name(cls)}): its state can't be loaded: loading it needs the object itself"
            ) from error
        except RecordError as error:
            raise RecordError(f"oid {format_oid(oid)} ({_name(cls)}): {error}") from error
        except DurusError:
            raise
        except REFUSALS as error:
            if error is outside:
                error.add_note(f"while the state of oid {format_oid(oid)} ({printable(_name(cls))}) was loaded")
                raise
            raise StateError(
                f"oid {format_oid(oid)} ({_name(cls)}): its state can't be loaded: {type(error).__name__}: {error}"
            ) from error
        except BaseException as error:
            error.add_note(f"while the state of oid {format_oid(oid)} ({printable(_name(cls))}) was loaded")
            raise
        finally:
            self._loading = outer
        self.load_count += 1

    def start_anew(self) -> None:
        """Forget the loads that an interrupt has ended. [TXN-30]"""
        self._loading = None

    def _load_with_care(self, obj: PersistentObject, state_pickle: bytes, start: int) -> bool:
        """Load a state; returns whether care was needed. [OBJ-71]"""
        postponed: list[Postponed] = []
        helped = self._helped
        unpickler = CarefulUnpickler if self.trust is None else TrustingUnpickler
        if self.trust is not None:
            check_work(state_pickle, False)
        state = load_pickles(lambda file: unpickler(file, self, obj, postponed), state_pickle, False, start)[0]
        self._set_state(obj, state, postponed)
        return self._helped > helped or bool(postponed) or bool(self._missing)

    def is_loading(self) -> bool:
        """Return whether a state is being loaded."""
        return self._loading is not None

    def find_class(self, module: str, name: str, find: Callable[[str, str], Any]) -> Any:
        """Return the result of `find`, or a stand-in for a missing name, imported once a transaction. [OBJ-28]"""
        missing = self._missing.get((module, name))
        if missing is not None:
            found = find_imported(module, name)
            if found is not None:
                return found
            if missing.serial == self._connection.transaction_serial or module in sys.modules or not missing.is_absent:
                return missing.value_class
        try:
            return find(module, name)
        except (Exception, SystemExit) as error:  # importing a module may raise anything
            if not isinstance(error, ImportError | AttributeError) and _can_be_found(module, name, find):
                raise  # it came from outside [OBJ-71]
            found = find_imported(module, name)  # it may exist nevertheless
            return self._stand_in(module, name, error).value_class if found is None else found

    def find_trusted(self, module: str, name: str) -> Any:
        """Return what a record may name, or a stand-in for what is refused or missing. [OBJ-100]"""
        missing = self._missing.get((module, name))
        if missing is not None and (
            missing.serial == self._connection.transaction_serial
            or not (missing.is_absent or missing.is_refused or module in sys.modules)
        ):
            return missing.value_class
        find = self._require_trust().find
        try:
            return find(module, name)
        except (Exception, SystemExit) as error:  # as in find_class()
            if not isinstance(error, ImportError | AttributeError) and _can_be_found(module, name, find):
                raise
            return self._stand_in(module, name, error).value_class

    def get_trusted(self, owner: object, name: str) -> Any:
        """Return the method or nested class that a record may name; UntrustedClassError for others. [OBJ-103]"""
        found = self._require_trust().attribute(owner, name)
        if isinstance(owner, PersistentObject) and is_in(self._loading, owner):
            self._helped += 1
        return found

    def refused_class(self, owner: object, name: str, error: BaseException) -> type[BrokenValue]:
        """Return the stand-in for what getattr(owner, name) would have been."""
        cls = owner if isinstance(owner, type) else type(owner)
        return self._stand_in(cls.__module__, f"{cls.__qualname__}.{name}", error).value_class

    def get_attribute(self, owner: object, name: str) -> Any:
        """Return the result of getattr(), a method of what is being loaded, or a stand-in for a missing class."""
        if isinstance(owner, PersistentObject) and is_in(self._loading, owner):
            self._helped += 1
            return get_slot(owner, name)
        try:
            return getattr(owner, name)
        except AttributeError as error:
            if not isinstance(owner, type):
                raise
            return self._stand_in(owner.__module__, f"{owner.__qualname__}.{name}", error).value_class

    def value_class(self, module: str, name: str, error: BaseException) -> type[BrokenValue] | None:
        """Return the stand-in for a class or function that refused to make a value, None if that is an error."""
        if self._is_strict or is_pythons_own(module):
            return None
        return self._stand_in(module, name, error).value_class

    def _stand_in(self, module: str, name: str, error: BaseException) -> "_Missing":
        missing = self._missing.get((module, name))
        if missing is None:
            module = _shared(module)
            value_class = broken_value_class(module, name, error, self.is_loading)
            missing = _Missing(broken_class(module, name, error), value_class)
            self._missing[module, name] = missing
        missing.serial = self._connection.transaction_serial
        missing.is_absent = isinstance(error, ModuleNotFoundError)
        missing.is_refused = isinstance(error, UntrustedClassError)
        return missing

    def _object_class(self, named: object, module: str, name: str) -> type[PersistentObject]:
        """Return the class of an object for the value of its name: a stand-in if that is not such a class. [OBJ-64]"""
        if isinstance(named, type) and issubclass(named, PersistentObject):
            return named
        if isinstance(named, type) and issubclass(named, BrokenValue):
            return self._missing[named.__module__, named.__qualname__].object_class
        kind = f"the class {_name(named)}" if isinstance(named, type) else f"a {type(named).__name__}"
        error = TypeError(f"the name stands for {kind}, which is not a subclass of PersistentObject")
        return self._stand_in(module, name, error).object_class

    def has_broken_classes(self) -> bool:
        """Return whether any class was missing so far.

        This stays True after the class can be imported, because stand-ins for it may still be in memory. All further
        commits of the connection therefore use the slower pickler, which is written in Python.
        """
        return bool(self._missing)

    def get_referenced(self, reference: object) -> PersistentObject:
        """Return the object that a reference in a state pickle means, possibly a new ghost. [REC-14]"""
        if not (isinstance(reference, tuple) and len(reference) == 2):
            raise RecordError(f"a reference must be a pair of oid and class, not {reference!r}")
        oid, cls = reference
        if not (isinstance(oid, bytes) and len(oid) == 8):
            raise RecordError(f"a reference must be a pair of 8-byte oid and class, not {reference!r}")
        obj = self._cache.get(oid)
        if obj is not None:
            return obj
        if not (isinstance(cls, type) and issubclass(cls, PersistentObject)):
            # The class may have moved or changed since the reference was stored; the record has the current one.
            obj = self._get(oid)
            if obj is None:
                if not callable(cls):
                    raise RecordError(f"a reference must be a pair of 8-byte oid and class, not {reference!r}")
                name = getattr(cls, "__qualname__", type(cls).__qualname__)
                cls = self._object_class(cls, str(getattr(cls, "__module__", "builtins")), name)
        return self._new_ghost(oid, cls) if obj is None else obj

    def _new_ghost(self, oid: bytes, cls: type[PersistentObject]) -> PersistentObject:
        ghost = new_ghost(cls, oid, self._connection)
        self._cache.add(oid, ghost)
        return ghost

    def _set_state(self, obj: PersistentObject, state: object, postponed: "Iterable[Postponed]") -> None:
        try:
            take_state(obj, state, has_plain_state(type(obj)))
            if postponed:
                _finish(obj, postponed)
        except BaseException:
            PersistentObject._p_set_status_ghost(obj)  # an interrupt may come when the object counts as loaded already
            raise

    def _read_class(self, oid: bytes, data: bytes) -> tuple[type[PersistentObject], bytes]:
        """Return the class that `data` names, and bytes whose last pickle is the state. [REC-12]"""
        last = self._class_at(oid, data)
        try:
            state = decompress_state(data[last.end :])
        except RecordError as error:
            raise RecordError(f"oid {format_oid(oid)} ({_name(last.cls)}): {error}") from error
        return last.cls, data[: last.end] + state if last.state_needs_class_pickle else state

    def _class_at(self, oid: bytes, data: bytes) -> "_RememberedClass":
        """Return the class that `data` names, without a look at the state."""
        last = self._last
        if last is None or not data.startswith(last.class_pickle) or not self._is_current(last):
            last = self._last = self._class_of(oid, data)
        return last

    def _class_of(self, oid: bytes, data: bytes) -> "_RememberedClass":
        class_pickle = class_pickle_of(data)
        remembered = self._classes.get(class_pickle) if class_pickle is not None else None
        if remembered is not None and self._is_current(remembered):
            return remembered
        known = parse_class_pickle(data)
        try:
            if known is not None:
                named, end, needs_class = self._unpickle(data[: known.end]), known.end, known.has_memo
            else:
                (named, end), needs_class = self._try_unpickle(data, first_only=True), True
        except (RecordError, *REFUSALS) as error:
            if isinstance(error, DurusError) and not isinstance(error, RecordError):
                raise
            raise RecordError(f"oid {format_oid(oid)}: its class can't be read: {error}") from error
        if known is None and not callable(named):
            raise RecordError(f"oid {format_oid(oid)}: its record names {named!r} instead of a class")
        module, name = known[:2] if known else (str(named.__module__), getattr(named, "__qualname__", "?"))
        cls = self._object_class(named, module, name)
        if known is None or class_pickle is None or self._must_not_be_looked_for(module, name):
            return _RememberedClass(data[:end], None, "", cls, named, end, needs_class)
        remembered = _RememberedClass(class_pickle, known.module, known.name, cls, named, end, needs_class)
        self._classes[class_pickle] = remembered
        return remembered

    def may_load(self, module: str, name: str) -> bool:
        """Return whether a record with this name would be loaded as it is now: a stand-in remains one. [OBJ-105]"""
        is_trusted = f"{module}.{name}" in GUARDED or self._require_trust().allows(module, name)
        return is_trusted or (module, name) in self._missing

    def _must_not_be_looked_for(self, module: str, name: str) -> bool:
        """Return whether a name is not what is trusted: a module may import others when it is asked for the name."""
        return self.trust is not None and (module, name) in self._missing

    def _is_current(self, remembered: "_RememberedClass") -> bool:
        """Return whether the name still stands for the same class; applications replace classes to rename them."""
        if remembered.module is None:
            return False
        found = find_imported(remembered.module, remembered.name)
        if found is not None:
            return found is remembered.named
        missing = self._missing.get((remembered.module, remembered.name))
        if missing is None:
            return False
        return missing.serial == self._connection.transaction_serial or not missing.is_absent

    def _unpickle(self, pickles: bytes) -> Any:
        """Return the value of the last of several pickles that share one memo."""
        return self._try_unpickle(pickles, first_only=False)[0]

    def _try_unpickle(self, pickles: bytes, first_only: bool) -> tuple[Any, int]:
        """Return the value of the last of several pickles that share one memo, or of the first, and where that ends."""
        if self.trust is not None:
            return load_trusted_pickles(self, pickles, first_only)
        try:
            return load_pickles(self._unpickler, pickles, first_only)
        except AttributeError:  # getattr() may fail to find a nested class
            return load_pickles(lambda file: CarefulUnpickler(file, self), pickles, first_only)

    def _load_trusted(self, make: object, pickles: bytes, first_only: bool, state_start: int = 0) -> tuple[Any, int]:
        """Do what load_pickles() does, with what is trusted."""
        return load_trusted_pickles(self, pickles, first_only, state_start)

    def _require_trust(self) -> Trust:
        if self.trust is None:
            raise StateError("this reader has no list of what it trusts")
        return self.trust


def _shared(module: str) -> str:
    """Return one str for all classes of a module, because a pickle shows whether two strs are the same object."""
    name = getattr(sys.modules.get(module), "__name__", None)
    return name if isinstance(name, str) and name == module else sys.intern(module)


def _can_be_found(module: str, name: str, find: Callable[[str, str], Any]) -> bool:
    try:
        find(module, name)
    except (Exception, SystemExit):
        return False
    return True


class _Missing:
    """The stand-ins for a missing name."""

    def __init__(self, object_class: type[BrokenObject], value_class: type[BrokenValue]) -> None:
        self.object_class = object_class
        """For objects with their own records."""
        self.value_class = value_class
        """For values in states."""
        self.serial = 0
        """The transaction in which it was last looked for."""
        self.is_absent = False
        """True if there was no such module; then another look runs no code that has failed before."""
        self.is_refused = False
        """True if the name is not trusted."""


def _become(obj: PersistentObject, cls: type[PersistentObject]) -> None:
    """Change the class of a ghost to the one that its record names, if Python can do that. [OBJ-65] [OBJ-66]"""
    try:
        set_slot(obj, "__class__", cls)
    except TypeError:  # they have different slots
        return


def _finish(obj: PersistentObject, postponed: Iterable[Postponed]) -> None:
    try:
        for each in postponed:
            each.add(*each.arguments)
    except BaseException:
        set_slot(obj, "_p_status", GHOST)
        raise


class _RememberedClass(NamedTuple):
    """The meaning of a class pickle when it was last read."""

    class_pickle: bytes
    module: str | None
    name: str
    cls: type[PersistentObject]
    named: object
    """The value of the name: the class, or what it stands in for."""
    end: int
    state_needs_class_pickle: bool
    """True if the state may refer to the memo of the class pickle."""


_STATES = None
"""Stores states in the usual case, in C, for all connections."""
if implementation == "C":
    _STATES = StateWriter(
        PersistentObject,
        layout_to_store,
        compress_state,
        COMPRESS_FROM,
        copyreg._extension_registry,  # type: ignore[attr-defined]  # not in the stubs
        ABCMeta,
        copyreg.dispatch_table,
        VALUE_TYPES,
    )


class ObjectWriter:
    """Turns the changed objects of one connection, and the new ones that they reach, into records."""

    _pickler: FastPickler | CarefulPickler | None = None
    _current: PersistentObject | None = None
    _class: type | None = None
    """The most recent class, and its traits."""
    _class_pickle, _may_refuse = b"", False

    def __init__(
        self,
        connection: ConnectionBase,
        root: PersistentObject,
        new_oid: Callable[[], bytes],
        has_broken_classes: bool,
        reader: ObjectReader | None = None,
    ) -> None:
        """Records hold what `reader` can load again, where that trusts some names only. [OBJ-105]"""
        self._reader = None if reader is None or reader.trust is None else reader
        self._connection = connection
        self._root = root
        self._new_oid = new_oid
        self._pickler_class = CarefulPickler if has_broken_classes else FastPickler
        self._states = None if has_broken_classes or self._reader is not None else _STATES
        self._file = io.BytesIO()
        self._pending: deque[tuple[PersistentObject, bytes]] = deque()
        self._refs: dict[bytes, bytes] = {}
        """The oids that the state refers to, each as the one bytes object that the pickler's memo knows."""
        self._reducers = Reducers()
        self._risky: list[tuple[PersistentObject, bytes]] = []
        self.new_objects: dict[int, tuple[bytes, PersistentObject]] = {}
        """By id(): the new objects that were found, each with its future oid."""

    def records(
        self, objects: Iterable[tuple[PersistentObject, bytes]]
    ) -> Iterator[tuple[PersistentObject, bytes, bytes]]:
        """Yield (object, oid, record) for the given (object, oid) pairs and all new objects that they reach. [TXN-8]

        Raises:
            UnstorableError: a state can't be pickled.
            ForeignReferenceError: an object belongs to another connection.
        """
        try:
            for pair in objects:
                self._pending.append(pair)
                while self._pending:
                    obj, oid = self._pending.popleft()
                    yield obj, oid, self._record(obj, oid)
        finally:
            self._pickler = None  # it holds this writer, and the last object
            self._reducers.clear()

    def _record(self, obj: PersistentObject, oid: bytes) -> bytes:
        if self._states is not None:
            try:
                record = self._states.record(obj, oid, self._connection, self.new_objects, self._take_in)
            except DurusError:
                raise
            except BaseException as error:
                self._note(obj, error)
                raise
            if record is not None:
                return record
        return self._pickled_record(obj, oid)

    def _pickled_record(self, obj: PersistentObject, oid: bytes) -> bytes:
        self._current = obj
        self._refs = {}
        try:
            state = obj.__getstate__()
            if obj._p_connection is not None:
                set_slot(obj, "_p_status", SAVED)  # so that a change from here on is noted as a new one [TXN-37]
        except DurusError:
            raise
        except BaseException as error:
            self._note(obj, error)
            raise
        try:
            pickled = self.pickle(state)
            cls = type(obj)
            if cls is not self._class:
                self._class_pickle, self._may_refuse = class_traits(cls)
                self._class = cls
            may_refuse = self._may_refuse
            data = self._class_pickle + compress_state(pickled)  # a copy, even if it is not compressed
            if (
                may_refuse
                or self._reducers.met_risk
                or (_FROZENSET[0] in pickled and _FROZENSET in pickled)  # finding one byte is much faster than two
                or (_INTERNAL[0] in pickled and _INTERNAL in pickled)
            ):
                self._look_at(obj, oid, state, pickled, may_refuse)
            if self._reader is not None:
                _check_is_trusted(obj, data, self._reader)
                self._check_keys(obj, pickled)
        except DurusError:
            raise
        except REFUSALS as error:
            if not self._fails_again(obj, state):
                self._note(obj, error)
                raise
            raise UnstorableError(unstorable(obj, self._root, self.pickle, error)) from error
        except BaseException as error:
            self._note(obj, error)
            raise
        del pickled
        try:
            return pack_record(oid, data, join_refs(oid, self._refs) if self._refs else b"")
        except RecordError as error:
            raise UnstorableError(
                f"{told_apart(obj)} can't be stored: {error}; {way_to(self._root, obj)}; spread its state over several "
                "persistent objects"
            ) from error

    def _check_keys(self, obj: PersistentObject, pickled: bytes) -> None:
        """Refuse a state that a connection with a list of classes would not load again. [REC-35]"""
        try:
            check_work(pickled, False)
        except RecordError as error:
            raise UnstorableError(
                f"{told_apart(obj)} can't be stored: {error}; {way_to(self._root, obj)}; use other keys"
            ) from error

    def _look_at(self, obj: PersistentObject, oid: bytes, state: object, pickled: bytes, may_refuse: bool) -> None:
        """Note that a state may fail to load again [OBJ-74], and refuse reserved names in it [OBJ-60]."""
        reducers = self._reducers
        is_risky = may_refuse or reducers.met_risk or (_MAKES_FROZENSET(pickled) and self._refs)
        if (
            is_risky and not reducers.met_stand_in
        ):  # it stands in because loading has failed, and is stored nevertheless
            self._risky.append((obj, oid))
        reducers.met_risk = reducers.met_stand_in = False
        if _INTERNAL in pickled and isinstance(state, dict) and not isinstance(obj, BrokenObject):
            _check_names(obj, state)

    def _fails_again(self, obj: PersistentObject, state: object) -> bool:
        """Return whether a state refuses to be pickled, or an exception came from outside. [OBJ-70]"""
        try:
            class_traits(type(obj))
            self.pickle(state)
        except REFUSALS:
            return True
        return False

    def _note(self, obj: PersistentObject, error: BaseException) -> None:
        error.add_note(f"while the state of {told_apart(obj)} was stored; {way_to(self._root, obj)}")

    def check_loads(
        self, records: Iterable[tuple[PersistentObject, bytes, bytes]], load: Callable[[bytes], bytes]
    ) -> None:
        """Load each state that may refuse it once, separately. [OBJ-74]

        `load` returns the record of any other object.

        Raises:
            UnstorableError: a state can't be loaded again.
        """
        if not self._risky:
            return
        trust = None if self._reader is None else self._reader.trust
        trial = RecordConnection({oid: record for _, oid, record in records}, load, trust=trust)
        for obj, oid in self._risky:
            error = trial.error_of(oid)
            if error is not None:
                raise UnstorableError(
                    f"{told_apart(obj)} can't be stored: its state could not be loaded again ({error}); "
                    f"{way_to(self._root, obj)}; change it, or omit it in __getstate__(); nothing was written, "
                    "and the transaction is still open"
                ) from error

    def pickle(self, value: object) -> bytes:
        """Return the pickle of a value, with references instead of persistent objects."""
        pickler, self._pickler = self._pickler or self._pickler_class(self._file, self.reference, self._reducers), None
        self._file.seek(0)
        self._file.truncate()
        pickler.clear_memo()
        pickler.dump(value)
        pickled = self._file.getvalue()
        if len(pickled) < _REUSE_BELOW:
            self._pickler = pickler
        else:
            self._file = io.BytesIO()  # the old one would keep its bytes
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
            current = obj if self._current is None else self._current
            raise ForeignReferenceError(
                f"{told_apart(current)} refers to {told_apart(obj)}, which belongs to another connection; store "
                "a copy of it, or its oid, instead"
            )
        else:
            oid = _oid_of(obj)
        return self._refs.setdefault(oid, oid), type(obj)

    def _take_in(self, obj: PersistentObject) -> bytes:
        oid = self._new_oid()
        self.new_objects[id(obj)] = (oid, obj)
        self._pending.append((obj, oid))
        return oid


def _check_names(obj: PersistentObject, state: dict[Any, Any]) -> None:
    for name in state:
        if isinstance(name, str) and name.startswith("_p_"):
            raise UnstorableError(
                f"{told_apart(obj)} can't be stored: its state has the name {name!r}, and names that begin with _p_ "
                "belong to Durus; move the value to another attribute (vars() of the object has it)"
            )


def _check_is_trusted(obj: PersistentObject, data: bytes, reader: ObjectReader) -> None:
    for module, name in sorted(read_contents(data).names):
        if not reader.may_load(module, name):
            raise UnstorableError(
                f"{told_apart(obj)} can't be stored: {module}.{name} is not in the list `classes`, so it could not be "
                "loaded again here; add that name to the list; nothing was written, and the transaction is still open"
            )


class RecordConnection(ConnectionBase):
    """A connection to some records, apart from all others: it loads objects from them, and stores nothing."""

    def __init__(
        self,
        records: dict[bytes, bytes],
        load: Callable[[bytes], bytes],
        is_strict: bool = True,
        trust: Trust | None = None,
    ) -> None:
        """`load` returns the record of any other oid. With `is_strict`, there are no stand-ins for values."""
        super().__init__()
        self._records = records
        self._load = load
        self._cache = Cache(1 << 30)
        self._reader = ObjectReader(self, self._cache, self.get, is_strict, trust)

    def start_anew(self) -> None:
        """Forget the loads that an interrupt has ended. [TXN-30]"""
        self._reader.start_anew()

    def take_in(self, oid: bytes, obj: PersistentObject) -> None:
        """Make an object the one that references to `oid` mean."""
        self._cache.note_loaded(oid, obj)

    def get(self, oid: bytes) -> PersistentObject | None:
        """Return the object of an oid, None if it has no record."""
        try:
            return self._reader.ghost_of_record(oid, self._data(oid))
        except DurusKeyError:
            return None

    def error_of(self, oid: bytes) -> Exception | None:
        """Return why the object of an oid can't be loaded, None if it can."""
        obj = self.get(oid)
        try:
            if obj is not None and obj._p_status == GHOST:
                self.load_state(obj)
        except (
            ConflictError,
            DurusKeyError,
        ):  # others have changed or removed what it needs; the commit will report that
            return None
        except (StateError, RecordError) as error:
            return error
        return None

    def _data(self, oid: bytes) -> bytes:
        record = self._records.get(oid)
        return unpack_record(self._load(oid) if record is None else record)[1]

    def load_state(self, obj: PersistentBase) -> None:
        if isinstance(obj, PersistentObject):
            oid = _oid_of(obj)
            self._reader.load_state(obj, self._data(oid))
            self._cache.note_loaded(oid, obj)

    def note_change(self, obj: PersistentBase) -> None:
        """Do nothing: nothing is stored here."""

    def release(self, obj: PersistentBase) -> None:
        """Do nothing: nothing is evicted here."""

    def watch(self) -> Watch:
        return Watch()


def _oid_of(obj: PersistentObject) -> bytes:
    oid = obj._p_oid
    if oid is None:
        raise StateError(f"{told_apart(obj)} belongs to a connection, but has no oid")
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
