"""Objects that a Connection loads, tracks and stores. spec/object-model.md, statements OBJ-1 to OBJ-15.

PersistentBase sees every attribute access and tells the connection; PersistentObject adds the state
of an object and its three statuses; Persistent is what most applications subclass.

Where the C extension was built, _persistent.c does the work of the two base classes. This module stays the
reference for it; DURUS_PURE_PYTHON=1 in the environment makes Durus use the classes here.

An attribute whose name starts with `_p_` belongs to this module.  It is set with set_slot(), below,
since a subclass may have a __setattr__ of its own (a frozen dataclass has).
"""

import contextlib
import os
import sys
from collections.abc import Callable, Collection, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, Self, SupportsIndex, TypeVar, cast

Status = Literal[-1, 0, 1]

UNSAVED: Literal[1] = 1
"""New, or changed since the last commit."""
SAVED: Literal[0] = 0
"""As its record says."""
GHOST: Literal[-1] = -1
"""Not loaded: it has an oid and a class, and no state."""

_MOST_DROPPED = 10_000

_UNTRACKED = frozenset({"__class__", "__repr__", "__setstate__"})

set_slot = object.__setattr__
get_slot = object.__getattribute__

State = Any  # whatever __getstate__ of an application's class returns


class ConnectionBase:
    """What an object needs of the connection that it belongs to."""

    transaction_serial: int = 0
    """The number of the transaction under way, which goes up by one with each commit or abort."""

    def __init__(self) -> None:
        self.accessed: set[bytes] = set()
        """The oids of the objects that were accessed in this transaction. [TXN-2]"""
        self.changed: dict[bytes, PersistentObject] = {}
        """The stored objects that were changed in this transaction, by oid."""

    def load_state(self, obj: "PersistentBase") -> None:
        """Fill a ghost with the state in its record."""
        raise NotImplementedError

    def note_access(self, obj: "PersistentBase") -> None:
        """Take the object into the read set of the transaction, the first time that it is used in it.

        The C extension does so without calling this.
        """
        serial = self.transaction_serial
        if obj._p_oid is not None:
            self.accessed.add(obj._p_oid)  # first, since an interrupt may keep the next line from being run
        set_slot(obj, "_p_serial", serial)

    def note_change(self, obj: "PersistentBase") -> None:
        """Take the object into the set that the next commit stores."""
        if obj._p_oid is not None:
            self.changed[obj._p_oid] = cast("PersistentObject", obj)

    def let_go(self, obj: "PersistentBase") -> None:
        """Drop the state of an object again if more is loaded than there should be. [OBJ-24]

        For the walk over a large structure which has just loaded it, and found nobody using it.
        """
        raise NotImplementedError

    def begin_steps(self, frame: FrameType) -> bool:
        """Note that `frame` begins to change several objects, which belong together. [OBJ-55]

        If it does not come to end_steps(), with what this returned, then it was interrupted, and no change of this
        transaction may be stored.
        """
        return True

    def end_steps(self, is_first: bool) -> None:
        """Note that the steps came to their end."""

    def note_reads(self, oids: Collection[bytes]) -> None:
        """Take objects into the read set whose states are known, though they need not be loaded."""
        self.accessed.update(oids)

    def watch(self) -> "Watch":
        """Return what tells from now on which states are no longer as they were."""
        raise NotImplementedError


class Watch:
    """The oids of objects whose states were dropped since it was made: others changed them, or an abort did."""

    def __init__(self) -> None:
        self.dropped: set[bytes] = set()
        self.is_lost = False
        """True when there were too many to remember."""

    def note_dropped(self, oids: Collection[bytes]) -> None:
        self.dropped.update(oids)
        if len(self.dropped) > _MOST_DROPPED:
            self.is_lost = True
            self.dropped.clear()


class PersistentBase:
    """Calls the connection when an attribute is read or written. [OBJ-5] to [OBJ-9]"""

    __slots__ = ("_p_connection", "_p_oid", "_p_serial", "_p_status")

    _p_oid: bytes | None
    _p_connection: ConnectionBase | None
    _p_status: Status
    _p_serial: int

    def __new__(cls, *args: object, **kwargs: object) -> Self:
        if (args or kwargs) and cls.__init__ is object.__init__:
            raise TypeError(f"{cls.__name__}() takes no arguments")
        self = object.__new__(cls)
        set_slot(self, "_p_oid", None)
        set_slot(self, "_p_connection", None)
        set_slot(self, "_p_status", UNSAVED)
        set_slot(self, "_p_serial", 0)
        return self

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_p_") and name not in _UNTRACKED:
            connection = get_slot(self, "_p_connection")
            if connection is not None and (
                get_slot(self, "_p_serial") != connection.transaction_serial or get_slot(self, "_p_status") == GHOST
            ):
                _use(self, connection)
        return get_slot(self, name)

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_p_"):
            _change(self)
        set_slot(self, name, value)

    def __delattr__(self, name: str) -> None:
        if not name.startswith("_p_"):
            _change(self)
        object.__delattr__(self, name)

    def _p_note_change(self) -> None:
        """Note that the state was changed, so that the next commit stores it. [OBJ-8]

        Call it when a container that is not persistent, but part of the state, was changed.
        """
        connection = get_slot(self, "_p_connection")
        if connection is None:
            return
        if get_slot(self, "_p_serial") != connection.transaction_serial or get_slot(self, "_p_status") == GHOST:
            _use(self, connection)
        if get_slot(self, "_p_status") == SAVED:
            connection.note_change(self)
            set_slot(self, "_p_status", UNSAVED)


def _change(obj: PersistentBase) -> None:
    """Call _p_note_change() where there is anything to note."""
    connection = get_slot(obj, "_p_connection")
    if connection is not None and (
        get_slot(obj, "_p_serial") != connection.transaction_serial or get_slot(obj, "_p_status") != UNSAVED
    ):
        get_slot(obj, "_p_note_change")()


def _use(obj: PersistentBase, connection: ConnectionBase) -> None:
    if get_slot(obj, "_p_status") == GHOST:
        connection.load_state(obj)
    connection.note_access(obj)


def new_ghost(cls: "type[_P]", oid: bytes, connection: ConnectionBase) -> "_P":
    """Return a new ghost of a class."""
    ghost = PersistentBase.__new__(cls)
    set_slot(ghost, "_p_oid", oid)
    set_slot(ghost, "_p_connection", connection)
    set_slot(ghost, "_p_status", GHOST)
    return ghost


def take_state(obj: PersistentBase, state: State, is_plain: bool) -> None:
    """Call __setstate__ of a ghost as if it was changed already, so that it notes no access and no change. [OBJ-13]

    `is_plain` is what has_plain_state() says of its class: then a dict becomes the attributes of the object, with
    names that all objects share. If it raises, the object stays a ghost, with whatever was set.
    """
    connection = get_slot(obj, "_p_connection")
    serial = get_slot(obj, "_p_serial")
    try:
        if connection is not None:
            set_slot(obj, "_p_serial", connection.transaction_serial)
        set_slot(obj, "_p_status", UNSAVED)
        if is_plain and type(state) is dict:
            shared = {sys.intern(name) if type(name) is str else name: value for name, value in state.items()}
            set_slot(obj, "__dict__", shared)
        else:
            obj.__setstate__(state)
        set_slot(obj, "_p_serial", serial)
        set_slot(obj, "_p_status", SAVED)
    except BaseException:
        set_slot(obj, "_p_status", GHOST)
        raise


def persistent_id_by(reference: "Callable[[PersistentBase], object]") -> Callable[[object], object]:
    """Return the persistent_id of a pickler: what `reference` says of a persistent object, None for all else."""
    return lambda obj: reference(obj) if issubclass(type(obj), PersistentBase) else None  # type: ignore[arg-type]  # mypy does not narrow by issubclass(type())


implementation: Literal["C", "Python"] = "Python"
"""What the base classes are made of."""

if not TYPE_CHECKING and os.environ.get("DURUS_PURE_PYTHON", "0") in ("", "0"):
    with contextlib.suppress(ImportError):
        from durus import _persistent

        implementation = "C"

        class ConnectionBase(_persistent.ConnectionBase, ConnectionBase):
            """What an object needs of the connection that it belongs to."""

        class PersistentBase(_persistent.PersistentBase):
            """Calls the connection when an attribute is read or written. [OBJ-5] to [OBJ-9]"""

            __slots__ = ()

        new_ghost = _persistent.new_ghost
        take_state = _persistent.take_state
        persistent_id_by = _persistent.persistent_id_by


_P = TypeVar("_P", bound=PersistentBase)


class PersistentObject(PersistentBase):
    """A persistent object whose attributes may all be slots. [OBJ-10] to [OBJ-12]"""

    __slots__ = ("__weakref__",)

    def __getstate__(self) -> State:
        """Return the state to store: a dict of the attributes in __dict__ and in slots. [OBJ-11]"""
        attributes = _attributes(self)
        if attributes is not None and not _data_slots(type(self)):
            return attributes
        return {**(attributes or {}), **{name: get_slot(self, name) for name in self._p_gen_data_slots()}}

    def __setstate__(self, state: State) -> None:
        """Take over a state as __getstate__ returns it; attributes that are not in it are removed. [OBJ-12]"""
        attributes = _attributes(self)
        values = {} if state is None else dict(attributes or {}) if state is attributes else state
        slots = _data_slots(type(self))
        if attributes is not None and not slots:
            attributes.clear()
            attributes.update(values)
            return
        self._p_clear_state()
        attributes = _attributes(self)
        for name, value in values.items():
            if attributes is None or name in slots:
                set_slot(self, name, value)
            else:
                attributes[name] = value

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        """Pickle a copy with its state, by protocol 2 at least: those below make objects past __new__(). [OBJ-14]"""
        return super().__reduce_ex__(max(int(protocol), 2))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._p_format_oid()}>"

    def _p_gen_data_slots(self) -> Iterator[str]:
        """Yield the names of the slots that hold a value of the state."""
        for name in _data_slots(type(self)):
            try:
                get_slot(self, name)
            except AttributeError:
                continue
            yield name

    def _p_clear_state(self) -> None:
        """Remove all attributes that are part of the state; finalizers of their values run when all are gone."""
        values = [(name, get_slot(self, name)) for name in self._p_gen_data_slots()]
        for name, _ in values:
            object.__delattr__(self, name)
        if _attributes(self) is not None:
            set_slot(self, "__dict__", {})

    def _p_copy(self, **attributes: object) -> Self:
        """Return a new object with the state of this one, which is loaded, but for these attributes. [OBJ-14]"""
        result = type(self).__new__(type(self))
        PersistentObject.__setstate__(result, {**PersistentObject.__getstate__(self), **attributes})
        return result

    def _p_load_state(self) -> None:
        """Load the state, if this is a ghost."""
        if self._p_is_ghost() and self._p_connection is not None:
            self._p_connection.load_state(self)

    def _p_format_oid(self) -> str:
        """Return the oid in decimal, or `@` and the address in memory while there is none."""
        oid = self._p_oid
        return f"@{id(self):x}" if oid is None else str(int.from_bytes(oid, "big"))

    def _p_set_status_ghost(self) -> None:
        """Drop the state; the next use loads it."""
        set_slot(self, "_p_status", GHOST)  # first: an object without its state must never count as loaded
        self._p_clear_state()

    def _p_set_status_saved(self) -> None:
        set_slot(self, "_p_status", SAVED)

    def _p_set_status_unsaved(self) -> None:
        """Mark the object as changed: the same as _p_note_change()."""
        self._p_note_change()

    def _p_is_ghost(self) -> bool:
        return self._p_status == GHOST

    def _p_is_unsaved(self) -> bool:
        return self._p_status == UNSAVED

    def _p_is_saved(self) -> bool:
        return self._p_status == SAVED


def _data_slots(cls: type) -> tuple[str, ...]:
    """Return the names of all slots of a class that can hold a part of the state. [OBJ-11]"""
    found: tuple[str, ...] | None = cls.__dict__.get("_p_data_slots")
    if found is None:
        names = []
        for owner in cls.__mro__:
            slots = owner.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if not name.startswith("_p_") and name not in ("__dict__", "__weakref__"):
                    is_private = name.startswith("__") and not name.endswith("__")
                    names.append(f"_{owner.__name__.lstrip('_')}{name}" if is_private else name)
        found = tuple(names)
        type.__setattr__(cls, "_p_data_slots", found)
    return found


def has_plain_state(cls: type[PersistentObject]) -> bool:
    """Tell if the state of an object of this class is its __dict__, and nothing else."""
    return cls.__setstate__ is PersistentObject.__setstate__ and cls.__dictoffset__ != 0 and not _data_slots(cls)


def _attributes(obj: PersistentObject) -> dict[str, Any] | None:
    try:
        return cast("dict[str, Any]", get_slot(obj, "__dict__"))
    except AttributeError:
        return None


class Persistent(PersistentObject):
    """The base class for persistent classes of applications: attributes are stored and tracked."""


_T = TypeVar("_T")


class ComputedAttribute(PersistentObject):
    """A value that every client computes for itself, until some client calls invalidate(). [OBJ-25]

    The value is not stored.  invalidate() is a change, so its commit makes others compute again.
    """

    __slots__ = ("value",)

    value: object

    def __getstate__(self) -> None:
        return None

    def invalidate(self) -> None:
        """Forget the value, here and, from the commit on, in all other clients."""
        self._p_note_change()
        self._p_clear_state()

    def get(self, compute: Callable[[], _T]) -> _T:
        """Return the value, calling compute() for it if there is none."""
        try:
            return cast("_T", self.value)
        except AttributeError:
            value = compute()
            set_slot(self, "value", value)
            return value
