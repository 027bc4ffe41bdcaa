"""Pickles classes and states. Statements REC-10, REC-11, OBJ-63, OBJ-70, OBJ-72 and OBJ-74."""

import contextlib
import copyreg
import io
import pickle
import sys
from collections.abc import Callable
from operator import attrgetter, methodcaller
from types import MethodType
from typing import Any

from durus.objects.broken import BrokenObject, BrokenValue
from durus.persistent import LayoutToStore, PersistentBase, PersistentObject, get_slot, persistent_id_by, slots_to_store

PICKLE_PROTOCOL = 4
"""The highest protocol that all Pythons of Durus 4.3 can read. [REC-11]"""

REFUSALS = (
    pickle.PickleError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    ImportError,
    LookupError,
    NameError,
    RuntimeError,
    StopIteration,
    TypeError,
    ValueError,
)
"""Errors of a state that can't be pickled or read. All others come from outside, and are raised unchanged. [OBJ-70]"""


def _global_names(cls: type) -> bytes:
    return f"{cls.__module__}\n{cls.__qualname__}\n".encode()


def find_imported(module: str, name: str) -> object:
    """Return the object of a qualified name in an imported module, None if there is none."""
    try:
        found: object = sys.modules[module]
        for part in name.split(".") if "." in name else (name,):
            found = getattr(found, part)
    except Exception:  # a module's own __getattr__ may import other modules, and so raise anything
        return None
    return found


def _check_importable(cls: type) -> None:
    if find_imported(cls.__module__, cls.__qualname__) is not cls:
        raise pickle.PicklingError(
            f"the class {cls.__qualname__} is not found under that name in the module {cls.__module__}; "
            "define it at the top level of a module"
        )


class Reducers(dict[type, Callable[[Any], Any]]):
    """Pickles instances as pickle does, and checks whether they can be loaded again."""

    met_risk = False
    """True after an instance that may refuse to be loaded."""
    met_stand_in = False
    """True if that was a stand-in for a value that could not be loaded, maybe because its class has refused it."""

    def __missing__(self, cls: type) -> Callable[[Any], Any]:
        reduce: Callable[[Any], Any]
        if cls is MethodType:
            reduce = _reduce_method
        elif issubclass(cls, type):
            reduce = _qualname
        elif issubclass(cls, BrokenValue):
            reduce = self._note_stand_in
        else:
            reduce = copyreg.dispatch_table.get(cls, _reduce)
            if not _loads_surely(cls):
                reduce = self._risk(reduce)
        self[cls] = reduce
        return reduce

    def _note_stand_in(self, value: BrokenValue) -> Any:
        self.met_risk = self.met_stand_in = True
        return value.__reduce_ex__(PICKLE_PROTOCOL)

    def _risk(self, reduce: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def reduce_and_note(value: object) -> Any:
            self.met_risk = True
            return reduce(value)

        return reduce_and_note


_qualname = attrgetter("__qualname__")
_reduce = methodcaller("__reduce_ex__", PICKLE_PROTOCOL)
_CUSTOM = (
    "__new__",
    "__setstate__",
    "__reduce__",
    "__reduce_ex__",
    "__getnewargs__",
    "__getnewargs_ex__",
    "__getstate__",
)
"""The methods by which a class controls how its instances are loaded."""


def _loads_surely(cls: type) -> bool:
    """Return whether loading instances of a class involves only Python itself. [OBJ-74]"""
    if hasattr(cls, "__del__"):  # this program must not have it called
        return True
    custom = (*_CUSTOM, "__init__", "__hash__") if issubclass(cls, BaseException) else (*_CUSTOM, "__hash__")
    return all(_is_pythons_own(cls, name) for name in custom)


def is_pythons_own(module: str) -> bool:
    """Return whether a module belongs to the standard library, or to this package."""
    return module.partition(".")[0] in sys.stdlib_module_names or module.startswith("durus.")


def _is_pythons_own(cls: type, name: str) -> bool:
    owner = next((each for each in cls.__mro__ if each.__dict__.get(name) is not None), object)
    method = owner.__dict__.get(name)
    module = getattr(getattr(method, "__func__", method), "__module__", None) or owner.__module__
    return is_pythons_own(module) or module.startswith("namedtuple_")


def _reduce_method(method: MethodType) -> Any:
    """Return the reduction of a method of an object: the object and the name of the method. [OBJ-72]"""
    owner, function = method.__self__, method.__func__
    name = getattr(function, "__name__", "")
    get: Callable[..., Any] = get_slot if isinstance(owner, PersistentBase) else getattr  # which loads nothing
    with contextlib.suppress(AttributeError):
        if get(owner, name) == method:
            return getattr, (owner, name)
    for cls in (owner.__mro__ if isinstance(owner, type) else ()) + type(owner).__mro__:
        for name, found in list(cls.__dict__.items()):
            is_it = found is function or getattr(found, "__func__", None) is function
            if is_it and get(owner, name) == method:
                return getattr, (owner, name)
    raise pickle.PicklingError(f"the method {function!r} is not found in {type(owner).__qualname__} under any name")


class FastPickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, reference: Callable[[PersistentBase], object], reducers: Reducers) -> None:
        # Before the base class, which looks them up. One is not a method: that saves a call per value.
        self.persistent_id = persistent_id_by(reference)  # type: ignore[method-assign]
        self.dispatch_table = reducers
        super().__init__(file, PICKLE_PROTOCOL)


class CarefulPickler(pickle._Pickler):
    """Also writes stand-ins for missing classes; used only if there are any."""

    def __init__(self, file: io.BytesIO, reference: Callable[[PersistentBase], object], reducers: Reducers) -> None:
        super().__init__(file, PICKLE_PROTOCOL)
        self.persistent_id = persistent_id_by(reference)  # type: ignore[assignment,method-assign]  # as above

    def save_global(self, obj: Any, name: str | None = None) -> None:
        if (
            isinstance(obj, type)
            and issubclass(obj, BrokenObject | BrokenValue)
            and not obj.__module__.startswith("durus.")
        ):
            for part in (obj.__module__, obj.__qualname__):
                self.save(part)  # type: ignore[attr-defined]  # not in the stubs
            self.write(pickle.STACK_GLOBAL)  # type: ignore[attr-defined]  # not in the stubs
            self.memoize(obj)  # type: ignore[attr-defined]  # not in the stubs
        else:
            super().save_global(obj, name)  # type: ignore[misc]  # not in the stubs


def class_pickle(cls: type) -> bytes:
    """Return the pickle of a class in GLOBAL form without memo. [REC-10]

    pickle.PicklingError if the class can't be found again under its name.
    """
    return class_traits(cls)[0]


def class_traits(cls: type) -> tuple[bytes, bool]:
    """Return the pickle of a class, and whether the class may refuse the states that it creates."""
    found: tuple[bytes, bool] | None = cls.__dict__.get("_p_traits")  # they are kept there, because some have no hash
    if found is None:
        if not issubclass(cls, BrokenObject):
            _check_importable(cls)
        made = pickle.PROTO + bytes([PICKLE_PROTOCOL]) + pickle.GLOBAL + _global_names(cls) + pickle.STOP
        found = made, issubclass(cls, PersistentObject) and _may_refuse(cls)
        type.__setattr__(cls, "_p_traits", found)
    return found


def _may_refuse(cls: type[PersistentObject]) -> bool:
    """Return whether a class creates its own states, and leaves them to a __setstate__() that takes dicts."""
    return (
        cls.__getstate__ is not PersistentObject.__getstate__
        and cls.__setstate__ is PersistentObject.__setstate__
        and not hasattr(cls, "__del__")
        and not cls.__module__.startswith("durus.")
    )


def layout_to_store(cls: type[PersistentObject]) -> LayoutToStore | None:
    """Return the class pickle of a class, and where its states are; None if its instances need more than that."""
    slots = None if issubclass(cls, BrokenObject) else slots_to_store(cls)
    try:
        return None if slots is None else (class_pickle(cls), slots)
    except pickle.PicklingError:
        return None
