"""Unpickles states, fast in the usual case and with care in all others. Statements OBJ-63, OBJ-72 and OBJ-73."""

import _compat_pickle
import codecs
import copyreg
import datetime
import io
import pickle
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeAlias

from durus.error import DurusError, MissingAttributeError, RecordError, StateError
from durus.implementation import implementation
from durus.objects.broken import BrokenValue, parts_that_stand_in
from durus.objects.pickling import REFUSALS
from durus.persistent import PersistentObject
from durus.records.pickle_work import check_work, fits

if not TYPE_CHECKING and implementation == "C":
    from durus._persistent import fits

RENAMED_MODULES = frozenset({*_compat_pickle.IMPORT_MAPPING, *(module for module, _ in _compat_pickle.NAME_MAPPING)})
"""The modules of Python 2 to which pickle gives other names in pickles of protocols 0 to 2."""

ENCODE = codecs.encode
"""The function by which pickles of protocol 2 make bytes."""
VALUE_TYPES = frozenset({datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone})
"""The types whose calls C reads and writes by itself, and Decimal: they run no code of an application. [PICKLE-12]"""


class NeedsItself(StateError):
    """The state of an object can't be loaded without the object itself."""

    def __init__(self, obj: PersistentObject) -> None:
        super().__init__(f"oid {obj._p_format_oid()}: its state is used while it is being loaded")
        self.obj = obj


Loading: TypeAlias = "tuple[PersistentObject, Loading | None, bool]"
"""An object whose state is being loaded, what was being loaded before, and True for the CarefulUnpickler, which then
also loads what is needed meanwhile, so that each object takes one try and not two."""


def is_in(loading: "Loading | None", obj: PersistentObject) -> bool:
    """Return whether an object is being loaded."""
    while loading is not None:
        if loading[0] is obj:
            return True
        loading = loading[1]
    return False


class Postponed(NamedTuple):
    """An item that is put into a container when the object that it belongs to has its state."""

    add: Callable[..., object]
    arguments: tuple[object, ...]


class Resolver(Protocol):
    """Resolves names and references in a state for an unpickler."""

    def find_class(self, module: str, name: str, find: Callable[[str, str], Any]) -> Any:
        """Return the result of `find`, or a stand-in for a missing class. [OBJ-28]"""

    def get_attribute(self, owner: object, name: str) -> Any:
        """Return the result of getattr(), or a stand-in."""

    def get_referenced(self, reference: object) -> PersistentObject:
        """Return the object of a reference. [REC-14]"""

    def value_class(self, module: str, name: str, error: BaseException) -> type[BrokenValue] | None:
        """Return the stand-in for a class that has refused to create a value; None if that is an error."""


class FastUnpickler(pickle.Unpickler):
    """Each reader has its own subclass, which costs less than an __init__() for each record."""

    _reader: Resolver

    @classmethod
    def of(cls, reader: Resolver) -> "type[FastUnpickler]":
        """Return the class for a reader."""
        return type(cls.__name__, (cls,), {"_reader": reader, "persistent_load": staticmethod(reader.get_referenced)})

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstructor" and module in ("copyreg", "copy_reg"):
            return _reconstruct
        return self._reader.find_class(module, name, super().find_class)


def _reconstruct(cls: type, base: type, state: object) -> object:
    """Create an instance as copyreg does for pickles of protocols 0 and 1, without calling __new__. [OBJ-29]"""
    make = copyreg._reconstructor  # type: ignore[attr-defined]  # not in the stubs
    return (
        BrokenValue._p_of_call(cls, make, (cls, base, state))
        if issubclass(cls, BrokenValue)
        else make(cls, base, state)
    )


_NEW = copyreg.__newobj__  # type: ignore[attr-defined]  # these are not in the stubs
_NEW_EX = copyreg.__newobj_ex__  # type: ignore[attr-defined]


class CarefulUnpickler(pickle._Unpickler):
    """Loads what the fast unpickler can't; it is slower, because it is written in Python.

    - A nested class of a missing class is missing too, and methods of the object `owner` that is being loaded are
      found, where pickles of protocols 0 to 3 call getattr(). [OBJ-72]
    - What can't be hashed before the owner has its state is put into its container afterwards. [OBJ-73]
    - A value that its class refuses to create, or that refuses a stand-in, becomes a stand-in itself. [OBJ-63]
    """

    def __init__(
        self,
        file: io.BytesIO,
        reader: Resolver,
        owner: PersistentObject | None = None,
        postponed: list[Postponed] | None = None,
    ) -> None:
        super().__init__(file)
        self._reader = reader
        self._owner = owner
        self._postponed = postponed
        self._unfinished: list[object] = []
        self._makers: dict[int, tuple[object, Any, tuple[Any, ...]]] = {}
        """By id(): the values that were created, and how."""
        self._names: dict[int, tuple[str, str]] = {}
        """By id(): the names of the classes and functions that were found."""
        self.persistent_load = reader.get_referenced  # type: ignore[assignment]  # as it is in the other one

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstructor" and module in ("copyreg", "copy_reg"):
            return _reconstruct
        found = self._look_up(module, name)
        self._names[id(found)] = module, name
        return found

    def _look_up(self, module: str, name: str) -> Any:
        return self._reader.find_class(module, name, super().find_class)

    stack: list[Any]
    memo: dict[int, Any]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)

    def _load_reduce(self) -> None:
        arguments = _tuple(self.stack.pop())
        self._check_finished(arguments)
        self.stack[-1] = self._call(self.stack[-1], arguments)

    def _load_newobj(self) -> None:
        arguments = _tuple(self.stack.pop())
        self._check_finished(arguments)
        self.stack[-1] = self._make(_NEW, (self.stack[-1], *arguments), _NEW)

    def _load_newobj_ex(self) -> None:
        keywords = self.stack.pop()
        arguments = _tuple(self.stack.pop())
        self._check_finished((arguments, keywords))
        self.stack[-1] = self._make(_NEW_EX, (self.stack[-1], arguments, keywords), _NEW_EX)

    def _instantiate(self, cls: Any, arguments: list[Any]) -> None:
        if arguments or not isinstance(cls, type) or hasattr(cls, "__getinitargs__"):
            self.stack.append(self._call(cls, tuple(arguments)))
        else:
            self.stack.append(self._make(_NEW, (cls,), _NEW))

    def _call(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        return self._make(self._reader.get_attribute if function is getattr else function, arguments, function)

    def _make(self, make: Any, arguments: tuple[Any, ...], function: Any) -> Any:
        """Return the value of a call in the pickle, or a stand-in for it; `function` is called."""
        try:
            value = make(*arguments)
        except DurusError as error:
            if not isinstance(error, MissingAttributeError):
                raise
            return self._stand_in_for(error, function, arguments)
        except REFUSALS as error:
            return self._stand_in_for(error, function, arguments)
        self._makers[id(value)] = value, function, arguments
        return value

    def _stand_in_for(self, error: BaseException, function: Any, arguments: tuple[Any, ...]) -> BrokenValue:
        """Return the stand-in for the value of a call that failed, or raise the error. [OBJ-63]"""
        part = next(parts_that_stand_in((function, *arguments)), None)
        if part is None and function is getattr:
            cls = type(arguments[0])
            part = self._reader.value_class(cls.__module__, f"{cls.__qualname__}.{arguments[1]}", error)
        for one in (function, *arguments) if part is None else ():
            module, name = self._names.get(id(one), ("builtins", ""))
            part = self._reader.value_class(module, name, error)
            if part is not None:  # it may have another name now
                function = part if function is one else function
                arguments = tuple(part if each is one else each for each in arguments)
                break
        if part is None:
            raise error
        function = copyreg._reconstructor if function is _reconstruct else function  # type: ignore[attr-defined]
        return BrokenValue._p_of_call(part, function, arguments)

    def _load_build(self) -> None:
        value, state = self.stack[-2:]
        if hasattr(type(value), "__setstate__"):
            self._check_finished(state)
        try:
            if isinstance(state, dict) and not hasattr(type(value), "__setstate__") and not hasattr(value, "__dict__"):
                del self.stack[-1]  # as load_build() does, which takes an empty state for anything
                raise pickle.UnpicklingError(f"its pickle gives a state to a {type(value).__name__}")
            super().load_build()  # type: ignore[misc]
        except REFUSALS as error:
            made, function, arguments = self._makers.get(id(value), (None, None, ()))
            if made is not value:
                raise
            broken = self._stand_in_for(error, function, arguments)
            broken.__setstate__(state)
            self.stack[-1] = broken
            for key, each in self.memo.items():
                if each is value:
                    self.memo[key] = broken

    def _load_setitem(self) -> None:
        value = self.stack.pop()
        key = self.stack.pop()
        self._put(self.stack[-1], self.stack[-1].__setitem__, key, value)

    def _load_setitems(self) -> None:
        pairs = self.pop_mark()  # type: ignore[attr-defined]
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            self._put(self.stack[-1], self.stack[-1].__setitem__, key, value)

    def _load_additems(self) -> None:
        for item in self.pop_mark():  # type: ignore[attr-defined]
            self._put(self.stack[-1], self.stack[-1].add, item)

    dispatch[pickle.REDUCE[0]] = _load_reduce
    dispatch[pickle.NEWOBJ[0]] = _load_newobj
    dispatch[pickle.NEWOBJ_EX[0]] = _load_newobj_ex
    dispatch[pickle.BUILD[0]] = _load_build
    dispatch[pickle.SETITEM[0]] = _load_setitem
    dispatch[pickle.SETITEMS[0]] = _load_setitems
    dispatch[pickle.ADDITEMS[0]] = _load_additems

    def _put(self, container: object, add: Callable[..., object], *arguments: object) -> None:
        if not any(each is container for each in self._unfinished):
            try:
                add(*arguments)
                return
            except NeedsItself as error:
                if error.obj is not self._owner or not _keeps_containers(type(error.obj)):
                    raise
            self._unfinished.append(container)
        if self._postponed is not None:
            self._postponed.append(Postponed(add, arguments))  # also the later ones, to keep their order

    def _check_finished(self, value: object) -> None:
        """Refuse to pass on a container that is not filled yet, because the receiver may copy it."""
        if self._unfinished and self._owner is not None and _contains(value, self._unfinished):
            raise NeedsItself(self._owner)


def _tuple(arguments: Any) -> tuple[Any, ...]:
    """Return the arguments of a call; UnpicklingError if they are not a tuple, as in C. [PICKLE-9]"""
    if not isinstance(arguments, tuple):
        raise pickle.UnpicklingError(f"its pickle has a {type(arguments).__name__} where a tuple of arguments must be")
    return arguments


def _keeps_containers(cls: type[PersistentObject]) -> bool:
    """Return whether setting the state keeps its containers, so that they may be filled afterwards."""
    return cls.__setstate__.__module__.startswith("durus.")


def _contains(value: object, wanted: list[object]) -> bool:
    pending = [value]
    met: set[int] = set()
    while pending:
        one = pending.pop()
        if any(one is each for each in wanted):
            return True
        if id(one) in met:
            continue
        met.add(id(one))
        if isinstance(one, dict):
            pending += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple | set | frozenset):
            pending += one
    return False


def load_pickles(
    make: Callable[[io.BytesIO], Any], pickles: bytes, first_only: bool, state_start: int = 0
) -> tuple[Any, int]:
    """Return the value of the first pickle, or of the one at `state_start`, and where it ends.

    A pickle before the state is that of the class; both have one memo. [REC-12]

    Raises:
        RecordError: bytes follow the state [PICKLE-1], or a number in the pickles is too large [REC-33].
    """
    if not fits(pickles, first_only):
        check_work(pickles, first_only)
    file = io.BytesIO(pickles)
    unpickler = make(file)
    value = unpickler.load()
    end = file.tell()
    if end <= state_start:
        value = unpickler.load()
        end = file.tell()
    if not first_only and end < len(pickles):
        raise RecordError(f"{len(pickles) - end} bytes follow its state and do not belong to it")
    return value, end
