"""Objects that a Connection loads, tracks and stores. spec/object-model.md, statements OBJ-1 to OBJ-15.

PersistentBase sees every attribute access and tells the connection; PersistentObject adds the state of an object and
its three statuses; Persistent is the base class of most application classes.

If the C extension was built, _persistent.c replaces the two base classes. This module remains the reference for it.

An attribute whose name starts with `_p_` belongs to this module. It is set with set_slot(), below, because a subclass
may have its own __setattr__ (a frozen dataclass has one). An attribute whose name starts with `_v_` is volatile: it is
never stored, and is dropped together with the state. [OBJ-80] to [OBJ-82]
"""

import contextlib
import inspect
import re
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from types import FrameType, GetSetDescriptorType, MemberDescriptorType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, SupportsIndex, TypeVar, cast

from durus.error import UnstorableError
from durus.implementation import implementation as implementation
from durus.object_repr import Items, ReprWriter
from durus.text import printable

Status = Literal[-1, 0, 1]

UNSAVED: Literal[1] = 1
"""New, or changed since the last commit."""
SAVED: Literal[0] = 0
"""As in its record."""
GHOST: Literal[-1] = -1
"""Not loaded: it has an oid and a class, but no state."""

_MAX_DROPPED = 10_000

_UNTRACKED = frozenset({"__class__", "__repr__", "__setstate__"})
_FIELDS = frozenset({"_p_connection", "_p_oid", "_p_serial", "_p_status"})
"""The names beginning with `_p_` that can be set. [OBJ-60]"""
_TRAITS = frozenset({"_p_data_slots", "_p_traits"})
"""The attribute of a class that caches its slots."""

set_slot = object.__setattr__
get_slot = object.__getattribute__

LayoutToStore = tuple[bytes, tuple[tuple[str, MemberDescriptorType], ...]]
"""The class pickle of a class, and what slots_to_store() returns for it."""

State = Any  # whatever the __getstate__() of an application's class returns


class ReadSet(set[bytes]):
    """The oids of the objects that a transaction has accessed."""


class ConnectionBase:
    """What an object needs from its connection."""

    transaction_serial: int = 0
    """The number of the current transaction, which each commit or abort increases by one.

    If it is below 0, no transaction is open: every use of an object calls load_state(), which raises. [DB-30]
    """

    def __init__(self) -> None:
        self.accessed = ReadSet()
        """The oids of the objects that this transaction has accessed. [TXN-2]"""
        self.changed: dict[bytes, PersistentObject] = {}
        """The stored objects that this transaction has changed, by oid."""

    def load_state(self, obj: "PersistentBase") -> None:
        """Load the state of the ghost `obj` from its record."""
        raise NotImplementedError

    def note_access(self, obj: "PersistentBase") -> None:
        """Add `obj` to the read set, when the transaction uses it for the first time.

        The C extension does so without calling this.
        """
        serial = self.transaction_serial
        if obj._p_oid is not None:
            self.accessed.add(obj._p_oid)  # first, because an interrupt may prevent the next line
        set_slot(obj, "_p_serial", serial)

    def note_change(self, obj: "PersistentBase") -> None:
        """Add `obj` to the objects that the next commit stores."""
        if obj._p_oid is not None:
            self.changed[obj._p_oid] = cast("PersistentObject", obj)

    def release(self, obj: "PersistentBase") -> None:
        """Drop the state of `obj` again if too many objects are loaded. [OBJ-24]

        A walk over a large structure calls this for an object that it has loaded and nobody uses.
        """
        raise NotImplementedError

    def begin_steps(self, frame: FrameType) -> bool:
        """Note that `frame` begins to change several objects that belong together. [OBJ-55]

        If it does not reach end_steps(), it was interrupted, and no change of this transaction may be stored.

        Returns:
            The argument of end_steps().
        """
        return True

    def end_steps(self, is_first: bool) -> None:
        """Note that the steps are complete; `is_first` is what begin_steps() returned."""

    def note_reads(self, oids: Collection[bytes]) -> None:
        """Add the objects of these `oids` to the read set: their states are known, though they may not be loaded."""
        self.accessed.update(oids)

    def watch(self) -> "Watch":
        """Return a watch, which collects the oids of states that are dropped from now on."""
        raise NotImplementedError


class Watch:
    """The oids of objects whose states were dropped since it was made, because others changed them, or by an abort."""

    def __init__(self) -> None:
        self.dropped: set[bytes] = set()
        self.overflowed = False
        """True after there were too many to remember."""

    def note_dropped(self, oids: Collection[bytes]) -> None:
        if len(self.dropped) + len(oids) > _MAX_DROPPED:
            self.overflowed = True
            self.dropped.clear()
        else:
            self.dropped.update(oids)


class PersistentBase:
    """Calls the connection when an attribute is read or written. [OBJ-5] to [OBJ-9]"""

    __slots__ = ("_p_connection", "_p_oid", "_p_serial", "_p_status")

    _p_oid: bytes | None
    _p_connection: ConnectionBase | None
    _p_status: Status
    _p_serial: int

    # Otherwise type checkers would accept any attribute, and any argument of a class without __init__. [OBJ-90]
    if not TYPE_CHECKING:

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
            if not name.startswith("_") or not name.startswith(("_p_", "_v_")):
                _change(self)
            elif name.startswith("_v_"):
                _touch(self)
            elif name not in _FIELDS:
                raise AttributeError(
                    f"{name!r} can't be set: names that begin with _p_ belong to Durus; give the attribute another name"
                )
            set_slot(self, name, value)

        def __delattr__(self, name: str) -> None:
            if name.startswith("_v_"):
                _touch(self)
            elif not name.startswith("_p_"):
                _change(self)
            object.__delattr__(self, name)

    def _p_note_change(self) -> None:
        """Note that the state was changed, so that the next commit stores it. [OBJ-8]

        Call it after changing a plain container that is part of the state.
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
    """Call _p_note_change() if there is anything to note."""
    connection = get_slot(obj, "_p_connection")
    if connection is not None and (
        get_slot(obj, "_p_serial") != connection.transaction_serial or get_slot(obj, "_p_status") != UNSAVED
    ):
        get_slot(obj, "_p_note_change")()


def _touch(obj: PersistentBase) -> None:
    """Load the object if it is a ghost, and note an access: what a volatile attribute needs. [OBJ-81]"""
    connection = get_slot(obj, "_p_connection")
    if connection is not None and (
        get_slot(obj, "_p_serial") != connection.transaction_serial or get_slot(obj, "_p_status") == GHOST
    ):
        _use(obj, connection)


def _use(obj: PersistentBase, connection: ConnectionBase) -> None:
    if get_slot(obj, "_p_status") == GHOST or connection.transaction_serial < 0:
        connection.load_state(obj)
    connection.note_access(obj)


def new_ghost(cls: "type[_P]", oid: bytes, connection: ConnectionBase) -> "_P":
    """Return a new ghost of a class, even of one that has become abstract. [OBJ-67]"""
    ghost = _of_abstract_class(cls) if cls.__flags__ & _IS_ABSTRACT else PersistentBase.__new__(cls)
    set_slot(ghost, "_p_oid", oid)
    set_slot(ghost, "_p_connection", connection)
    set_slot(ghost, "_p_status", GHOST)
    return ghost


_IS_ABSTRACT = 1 << 20
"""The flag of a class of which object.__new__() makes no instance."""
_abstract = threading.Lock()


def _of_abstract_class(cls: "type[_P]") -> "_P":
    with _abstract:
        names = cls.__abstractmethods__  # type: ignore[attr-defined]  # the flag says that it is there
        type.__setattr__(cls, "__abstractmethods__", frozenset())
        try:
            return PersistentBase.__new__(cls)
        finally:
            type.__setattr__(cls, "__abstractmethods__", names)


def take_state(obj: PersistentBase, state: State, is_plain: bool) -> None:
    """Call __setstate__() of a ghost as if it was already changed, so that it notes no access and no change. [OBJ-13]

    If it raises, the object remains a ghost, with the attributes that were set.

    Args:
        obj: the ghost.
        state: its state.
        is_plain: what has_plain_state() returns for its class. Then a dict becomes the attributes of the object, with
            names that all objects share.
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
            obj.__setstate__(state)  # type: ignore[attr-defined]  # which PersistentObject has
        set_slot(obj, "_p_serial", serial)
        set_slot(obj, "_p_status", SAVED)
    except BaseException:
        set_slot(obj, "_p_status", GHOST)
        raise


def without_volatile(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes that belong to the state: `attributes` itself if all of them do."""
    try:
        if "_v_" not in "".join(attributes):
            return attributes
    except TypeError:  # a name that is not a str
        pass
    return {name: value for name, value in attributes.items() if not (isinstance(name, str) and name.startswith("_v_"))}


def persistent_id_by(reference: "Callable[[PersistentBase], object]") -> Callable[[object], object]:
    """Return the persistent_id of a pickler: `reference` of a persistent object, None for anything else."""
    return lambda obj: reference(obj) if issubclass(type(obj), PersistentBase) else None  # type: ignore[arg-type]  # mypy does not narrow by issubclass(type())


class StateReader:
    """Loads the states of one connection in the usual case, in C; the one here leaves all of them to ObjectReader."""

    def __init__(
        self,
        connection: ConnectionBase,
        cache: object,
        base: "type[PersistentObject]",
        layout_of: "Callable[[type[PersistentObject]], tuple[MemberDescriptorType, ...] | None]",
        decompress: Callable[[bytes], bytes],
        renamed_modules: frozenset[str],
        encode: Callable[..., object],
        value_types: frozenset[type],
        durus_error: type[Exception],
    ) -> None:
        pass

    def load(self, obj: "PersistentObject", record: bytes) -> bool:
        """Give a ghost the state in its record; False if nothing was done."""
        return False


class StateWriter:
    """Makes the records of objects in the usual case, in C; the one here leaves all of them to ObjectWriter."""

    def __init__(
        self,
        base: "type[PersistentObject]",
        layout_to_store: "Callable[[type[PersistentObject]], LayoutToStore | None]",
        compress: Callable[[bytes], bytes],
        compress_from: int,
        extensions: dict[Any, int],
        abc_meta: type,
        dispatch_table: dict[type, Callable[[Any], Any]],
        value_types: frozenset[type],
    ) -> None:
        pass

    def record(
        self,
        obj: "PersistentObject",
        oid: bytes,
        connection: ConnectionBase,
        new_objects: "dict[int, tuple[bytes, PersistentObject]]",
        take_in: "Callable[[PersistentObject], bytes]",
    ) -> bytes | None:
        """Return the record of an object; None if that is left to Python. take_in() gives oids to new objects."""
        return None


if not TYPE_CHECKING and implementation == "C":
    from durus import _persistent

    class ConnectionBase(_persistent.ConnectionBase, ConnectionBase):
        """What an object needs of the connection that it belongs to."""

    class PersistentBase(_persistent.PersistentBase):
        """Calls the connection when an attribute is read or written. [OBJ-5] to [OBJ-9]"""

        __slots__ = ()

    ReadSet = _persistent.ReadSet
    new_ghost = _persistent.new_ghost
    take_state = _persistent.take_state
    persistent_id_by = _persistent.persistent_id_by
    StateReader = _persistent.StateReader
    StateWriter = _persistent.StateWriter
    without_volatile = _persistent.without_volatile


_P = TypeVar("_P", bound=PersistentBase)


class PersistentObject(PersistentBase):
    """A persistent object whose attributes may all be slots. [OBJ-10] to [OBJ-12]"""

    __slots__ = ("__weakref__",)

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Refuse names that begin with `_p_` and do not belong to Durus. [OBJ-60]"""
        super().__init_subclass__(**keywords)
        for name in cls.__dict__.keys() & _TRAITS:  # copied by a decorator from the original class
            type.__delattr__(cls, name)
        if not cls.__module__.startswith("durus."):
            for name in cls.__dict__:
                is_own = name not in _FIELDS and any(hasattr(base, name) for base in cls.__bases__)
                if name.startswith("_p_") and not is_own:
                    raise TypeError(
                        f"the class {cls.__qualname__} can't have {name!r}: names that begin with _p_ belong to Durus; "
                        "give the attribute another name"
                    )

    def __getstate__(self) -> State:
        """Return the state to store: a dict of the attributes in __dict__ and in slots. [OBJ-11] [OBJ-80]"""
        attributes = without_volatile(_attributes(self) or {})
        slots = _data_slots(type(self))
        if not slots:
            return attributes
        state = dict(attributes)
        for slot in slots:
            if slot.is_volatile:
                continue
            try:
                value = slot.descriptor.__get__(self, type(self))
            except AttributeError:
                continue
            if slot.is_hidden or slot.name in state:
                raise UnstorableError(
                    f"{type(self).__name__} {self._p_format_oid()} has two values named {slot.name!r}, or one in a "
                    f"slot that its class hides, and its state can't distinguish them; rename the slot"
                )
            state[slot.name] = value
        return state

    def __setstate__(self, state: State) -> None:
        """Take over a state of __getstate__(); attributes that are not in it are removed. [OBJ-12]"""
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
            slot = _slot_for(slots, name, values)
            if slot is not None:
                slot.descriptor.__set__(self, value)
            elif attributes is not None:
                attributes[name] = value
            else:
                raise AttributeError(f"{type(self).__qualname__} has no slot {name!r} for a value in its state")

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        """Pickle a copy with its state, by protocol 2 or higher: lower ones bypass __new__(). [OBJ-14]"""
        if _needs_arguments(type(self)):
            return _copied, (type(self),), self.__getstate__()
        return super().__reduce_ex__(max(int(protocol), 2))

    def __repr__(self) -> str:
        """Return class, oid and the first attributes or items in one line; it loads nothing, and never raises. [OBJ-92]

        The repr of a ghost shows that it is one.
        """
        try:
            label = self._p_format_label()
            if get_slot(self, "_p_status") == GHOST:
                return f"<{label} ghost>"
            items = self._p_get_items()
            shown = _attributes_in_memory(self, "" if items is None else items.attribute)
            return _reprs.write(label, shown, items)
        except (
            Exception
        ):  # an object that is broken, or changed by another thread meanwhile, still has a class and an oid
            return told_apart(self)

    def _p_format_label(self) -> str:
        """Return the name of the class and the oid, with which errors identify the object."""
        return f"{printable(type(self).__name__)} {self._p_format_oid()}"

    def _p_get_items(self) -> Items | None:
        """Return the items that the repr of a container shows."""
        return None

    def _p_gen_data_slots(self) -> Iterator[str]:
        """Yield the names of the slots that hold a value of the state."""
        for slot in _data_slots(type(self)):
            with contextlib.suppress(AttributeError):
                slot.descriptor.__get__(self, type(self))
                if not slot.is_volatile:
                    yield slot.name

    def _p_clear_state(self) -> None:
        """Remove all attributes of the state, and the volatile ones. [OBJ-82]"""
        dropped = []  # repeatedly, because finalizers may use this object, and so load it again [OBJ-76]
        for slot in _data_slots(type(self)):
            with contextlib.suppress(AttributeError):  # it is empty
                dropped.append(slot.descriptor.__get__(self, type(self)))
                slot.descriptor.__delete__(self)
        if _attributes(self) is not None:
            set_slot(self, "__dict__", {})

    def _p_copy(self, **attributes: object) -> Self:
        """Return a new object with the state of this one, which is loaded, except for these attributes. [OBJ-14]"""
        cls = type(self)
        result = PersistentBase.__new__(cls) if _needs_arguments(cls) else cls.__new__(cls)
        PersistentObject.__setstate__(result, {**PersistentObject.__getstate__(self), **attributes})
        return result

    def _p_load_state(self) -> None:
        """Load the state if this is a ghost.

        Raises:
            ReadConflictError: the state does not fit what the transaction has read.
            StateError: the state can't be loaded.
        """
        if self._p_is_ghost() and self._p_connection is not None:
            self._p_connection.load_state(self)

    def _p_format_oid(self) -> str:
        """Return the oid in decimal, or `@` and the address in memory if there is none."""
        oid = self._p_oid
        return f"@{id(self):x}" if oid is None else str(int.from_bytes(oid, "big"))

    def _p_set_status_ghost(self) -> None:
        """Drop the state; the next use loads it."""
        set_slot(self, "_p_status", GHOST)  # first: an object without its state must never count as loaded [OBJ-76]
        self._p_clear_state()

    def _p_set_status_saved(self) -> None:
        set_slot(self, "_p_status", SAVED)

    def _p_set_status_unsaved(self) -> None:
        """Mark the object as changed: the same as _p_note_change()."""
        self._p_note_change()

    def _p_is_ghost(self) -> bool:
        """Return whether the state is not loaded."""
        return self._p_status == GHOST

    def _p_is_unsaved(self) -> bool:
        """Return whether the object is new, or changed in this transaction."""
        return self._p_status == UNSAVED

    def _p_is_saved(self) -> bool:
        """Return whether the state is loaded, and equal to the stored one."""
        return self._p_status == SAVED


class _Slot(NamedTuple):
    """A slot that can hold a part of the state, or a volatile attribute."""

    name: str
    descriptor: MemberDescriptorType
    is_hidden: bool
    """True if the name leads elsewhere: to the slot of a subclass, or past a subclass's default to the __dict__."""

    @property
    def is_volatile(self) -> bool:
        """True if the slot is dropped with the state without being part of it."""
        return self.name.startswith("_v_")


def _data_slots(cls: type) -> tuple[_Slot, ...]:
    """Return all slots of a class that can hold a part of the state. [OBJ-11] [OBJ-61]"""
    found: tuple[_Slot, ...] | None = cls.__dict__.get("_p_data_slots")
    if found is None:
        found = tuple(_find_slots(cls))
        type.__setattr__(cls, "_p_data_slots", found)
    return found


def _find_slots(cls: type) -> Iterator[_Slot]:
    seen: dict[str, object] = {}
    for owner in cls.__mro__:
        for name, value in list(owner.__dict__.items()):  # another thread may add its findings to it
            first = seen.setdefault(name, value)
            if name.startswith("_p_") or name in ("__dict__", "__weakref__") or not _is_slot(owner, name, value):
                continue
            leads_to_dict = cls.__dictoffset__ != 0 and not hasattr(type(first), "__set__")
            yield _Slot(name, value, first is not value and (leads_to_dict or isinstance(first, MemberDescriptorType)))


def _is_slot(owner: type, name: str, value: object) -> bool:
    """Return whether an attribute of a class is a slot, or a decorator's replacement of one."""
    if isinstance(value, MemberDescriptorType):
        return value.__objclass__ is owner and value.__name__ == name
    slots = owner.__dict__.get("__slots__", ())
    is_named = name == slots if isinstance(slots, str) else isinstance(slots, Collection) and name in slots
    return is_named and all(hasattr(type(value), method) for method in ("__get__", "__set__", "__delete__"))


_PRIVATE = re.compile("_[^_].*?(__.*)")


def _slot_for(slots: tuple[_Slot, ...], name: str, values: Collection[str]) -> _Slot | None:
    """Return the slot for a name in a state, even for a private one from a former name of the class. [OBJ-62]"""
    shown = [slot for slot in slots if not slot.is_hidden]
    for slot in shown:
        if slot.name == name:
            return slot
    if private := _PRIVATE.fullmatch(name):
        renamed = [
            slot
            for slot in shown
            if slot.name not in values and (own := _PRIVATE.fullmatch(slot.name)) and own[1] == private[1]
        ]
        if len(renamed) == 1:
            return renamed[0]
    return None


def _needs_arguments(cls: type[PersistentObject]) -> bool:
    """Return whether __new__() of the class needs arguments that the class does not provide. [OBJ-14]"""
    if cls.__new__ is PersistentBase.__new__ or hasattr(cls, "__getnewargs_ex__") or hasattr(cls, "__getnewargs__"):
        return False
    try:
        inspect.signature(cls.__new__).bind(cls)
    except TypeError:
        return True
    except ValueError:  # its signature is unknown
        return False
    return False


def _copied(cls: "type[_P]") -> "_P":
    """Make the object that becomes a copy, bypassing __new__() of its class."""
    return PersistentBase.__new__(cls)


def has_plain_state(cls: type[PersistentObject]) -> bool:
    """Return whether the state of an object of this class is its __dict__, and nothing else."""
    return cls.__setstate__ is PersistentObject.__setstate__ and cls.__dictoffset__ != 0 and not _data_slots(cls)


def layout_of(cls: type[PersistentObject]) -> tuple[MemberDescriptorType, ...] | None:
    """Return where objects of a class keep their state: () for only the __dict__, all slots, or None for anything else.

    With slots, an object has no __dict__, and each name in a state is that of one of them.
    """
    if has_plain_state(cls):
        return ()
    if cls.__setstate__ is not PersistentObject.__setstate__:
        return None
    slots = _plain_slots(cls)
    return None if slots is None else tuple(slot.descriptor for slot in slots)


def slots_to_empty(cls: type[PersistentObject]) -> tuple[MemberDescriptorType, ...] | None:
    """Return the slots that become empty with the __dict__ when an object becomes a ghost; None for anything else."""
    is_own = cls._p_set_status_ghost is _set_status_ghost and cls._p_clear_state is _clear_state
    slots = tuple(
        [slot.descriptor for slot in _data_slots(cls)]
    )  # not a generator, without memory for which 3.13.0 dies
    is_plain = all(map(_has_plain_dict, cls.__mro__)) and {MemberDescriptorType}.issuperset(map(type, slots))
    return slots if is_own and is_plain else None


def slots_to_store(cls: type[PersistentObject]) -> tuple[tuple[str, MemberDescriptorType], ...] | None:
    """Return where __getstate__() finds the state: () for only the __dict__, all slots, or None for anything else."""
    if cls.__getstate__ is not _getstate or not all(map(_has_plain_dict, cls.__mro__)):
        return None
    if cls.__dictoffset__ != 0 and not _data_slots(cls):
        return ()
    slots = _plain_slots(cls)
    return (
        None if slots is None else tuple((slot.name, slot.descriptor) for slot in slots if not slot.is_volatile) or None
    )


_getstate = PersistentObject.__getstate__
_set_status_ghost = PersistentObject._p_set_status_ghost
_clear_state = PersistentObject._p_clear_state


def _plain_slots(cls: type[PersistentObject]) -> tuple[_Slot, ...] | None:
    """Return the slots of a class whose instances have nothing else; None if one of them is not as Python makes it."""
    slots = _data_slots(cls)
    is_plain = all(isinstance(slot.descriptor, MemberDescriptorType) and not slot.is_hidden for slot in slots)
    return slots if slots and is_plain and cls.__dictoffset__ == 0 else None


def _has_plain_dict(owner: type) -> bool:
    return isinstance(owner.__dict__.get("__dict__"), GetSetDescriptorType | None)


def _attributes(obj: PersistentObject) -> dict[str, Any] | None:
    try:
        return cast("dict[str, Any]", get_slot(obj, "__dict__"))
    except AttributeError:
        return None


def _attributes_in_memory(obj: PersistentObject, hidden: str) -> Iterator[tuple[str, object]]:
    """Yield name and value of the attributes of a loaded object, except `hidden`, without noting an access."""
    for slot in _data_slots(type(obj)):
        if slot.name != hidden and isinstance(slot.descriptor, MemberDescriptorType):
            with contextlib.suppress(AttributeError):  # it is empty
                yield slot.name, slot.descriptor.__get__(obj, type(obj))
    for name, value in list((_attributes(obj) or {}).items()):
        if name != hidden and not str(name).startswith("_p_"):
            yield str(name), value


def _label_of(value: object) -> str | None:
    if not issubclass(type(value), PersistentObject):
        return None
    return told_apart(cast("PersistentObject", value))[1:-1]


def told_apart(obj: PersistentObject) -> str:
    """Return class and oid of an object, for an error; its own __repr__() may need its state."""
    try:
        return f"<{obj._p_format_label()}>"
    except Exception:  # for example a class whose name can't be read
        return object.__repr__(obj)


_reprs = ReprWriter(_label_of)


class Persistent(PersistentObject):
    """The base class for persistent classes of applications: attributes are stored and tracked."""


_T = TypeVar("_T")


class ComputedAttribute(PersistentObject):
    """A value that every client computes for itself and keeps until some client calls invalidate(). [OBJ-25]

    The value is not stored. invalidate() is a change, so that its commit makes other clients compute again.
    """

    __slots__ = ("value",)

    value: object

    def __getstate__(self) -> None:
        return None

    def invalidate(self) -> None:
        """Forget the value here, and from the commit on in all other clients."""
        self._p_note_change()
        self._p_clear_state()

    def get(self, compute: Callable[[], _T]) -> _T:
        """Return the value, and compute it if there is none.

        Args:
            compute: returns the value.
        """
        try:
            return cast("_T", self.value)
        except AttributeError:
            value = compute()
            set_slot(self, "value", value)
            return value
