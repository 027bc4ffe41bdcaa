"""Stand-ins for objects, and values in states, whose classes are missing or not trusted.

Statements OBJ-27 to OBJ-29, OBJ-63 and OBJ-100.
"""

import copyreg
import operator
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Self, cast

from durus.error import ClassNotFoundError, MissingAttributeError, UntrustedClassError
from durus.persistent import PersistentObject, State, get_slot, set_slot, told_apart
from durus.text import printable


class BrokenObject(PersistentObject):
    """Stands for an object whose class can't be imported; each missing class becomes a subclass of it.

    If the stored state is a dict of attributes, these are its attributes. __getstate__() returns any other state.
    """

    __slots__ = ("__dict__",)  # and nothing else, so that the object can become one of its real class [OBJ-66]

    _p_reason: ClassVar[str] = "it stands for all that are missing"
    """Why the class is missing."""
    _p_error: ClassVar[type[ClassNotFoundError]] = ClassNotFoundError
    """What is raised where the class itself is needed."""

    def __new__(cls, *args: object, **kwargs: object) -> Self:
        raise _needed(cls)

    def __getattr__(self, name: str) -> Any:
        raise MissingAttributeError(
            f"{told_apart(self)} has no attribute {name!r} in its state, and {_missing(type(self))}, which may have it",
            name=name,
            obj=self,
        )

    def __getstate__(self) -> State:
        return get_slot(self, "_p_other_state") if self._p_has_other_state() else super().__getstate__()

    def __setstate__(self, state: State) -> None:
        if type(state) is dict and all(isinstance(name, str) and not _is_reserved(name) for name in state):
            super().__setstate__(state)
        else:
            super().__setstate__(None)
            set_slot(self, "_p_other_state", state)

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_p_"):
            self._p_load_state()
            if self._p_has_other_state():
                raise type(self)._p_error(
                    f"{told_apart(self)}: the attribute {name!r} can't be set: only its class knows what its state "
                    f"means, and {_missing(type(self))}",
                    name=type(self).__module__,
                )
        super().__setattr__(name, value)

    def __bool__(self) -> bool:
        return True

    def _p_format_label(self) -> str:
        return printable(f"broken {type(self).__module__}.{type(self).__qualname__} {self._p_format_oid()}")

    def _p_has_other_state(self) -> bool:
        """Return whether the loaded state is not a dict of attributes."""
        return "_p_other_state" in get_slot(self, "__dict__")


def _refusing(name: str) -> Callable[..., Any]:
    def special(self: BrokenObject, *args: object) -> Any:
        raise type(self)._p_error(
            f"{told_apart(self)} can't do {name}(): {_missing(type(self))}, which may be able to",
            name=type(self).__module__,
        )

    return special


for _name in ("len", "iter", "contains", "getitem", "setitem", "delitem", "call", "enter", "exit"):
    setattr(BrokenObject, f"__{_name}__", _refusing(f"__{_name}__"))


class _ValueClass(type):
    """The class of the stand-ins for classes and functions of values: it records what pickles do with one."""

    _p_reason: str
    _p_error: type[ClassNotFoundError]
    _p_is_loading: Callable[[], bool]

    def __call__(cls, *args: Any, **keywords: Any) -> Any:
        if keywords:
            return cast("type[BrokenValue]", cls).__new__(cast("type[BrokenValue]", cls), *args, **keywords)
        return cls._made(cls, args)

    def __getitem__(cls, parameters: Any) -> "BrokenValue":
        return cls._made(operator.getitem, (cls, parameters))

    __iter__ = None  # otherwise Python would iterate by __getitem__(), which has no end

    def _made(cls, function: Callable[..., Any], arguments: tuple[Any, ...]) -> "BrokenValue":
        if not cls._p_is_loading():
            raise _needed(cls)
        value = object.__new__(cast("type[BrokenValue]", cls))
        set_slot(value, "_p_function", function)
        set_slot(value, "_p_arguments", arguments)
        return value

    def __repr__(cls) -> str:
        return printable(f"<broken {cls.__module__}.{cls.__qualname__}>")


class BrokenValue(metaclass=_ValueClass):
    """Stands for a value in a state whose class, or the function that creates it, is missing.

    It keeps the steps of its pickle, and is stored again with them. [OBJ-63]
    """

    _p_reason = "it stands for all that are missing"
    _p_error = ClassNotFoundError

    def __new__(cls, *args: Any, **keywords: Any) -> Self:
        if keywords:
            return cls._made(copyreg.__newobj_ex__, (cls, args, keywords))  # type: ignore[attr-defined,return-value]  # not in the stubs
        return cls._made(copyreg.__newobj__, (cls, *args))  # type: ignore[attr-defined,return-value]  # as above

    @staticmethod
    def _p_is_loading() -> bool:
        return True

    @staticmethod
    def _p_of_call(
        part: "BrokenValue | _ValueClass", function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> "BrokenValue":
        """Return the stand-in for the value of a call that failed because of a stand-in, `part`, in its arguments."""
        cls = part if isinstance(part, _ValueClass) else type(part)
        return cls._made(function, arguments)

    def __setstate__(self, state: Any) -> None:
        set_slot(self, "_p_state", state)

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        own = get_slot(self, "__dict__")
        items, pairs = own.get("_p_items"), own.get("_p_pairs")
        return (
            own["_p_function"],
            own["_p_arguments"],
            own.get("_p_state"),
            None if items is None else iter(items),
            None if pairs is None else iter(pairs),
        )

    def append(self, item: Any) -> None:
        get_slot(self, "__dict__").setdefault("_p_items", []).append(item)

    def extend(self, items: Any) -> None:
        get_slot(self, "__dict__").setdefault("_p_items", []).extend(items)

    def __setitem__(self, key: Any, value: Any) -> None:
        get_slot(self, "__dict__").setdefault("_p_pairs", []).append((key, value))

    def __getattr__(self, name: str) -> Any:
        state = get_slot(self, "__dict__").get("_p_state")
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict) and name in part:
                return part[name]
        raise MissingAttributeError(
            f"{self!r} has no attribute {name!r} in its state, and {_missing(type(self))}, which may have it",
            name=name,
            obj=self,
        )

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __repr__(self) -> str:
        return printable(f"<broken {type(self).__module__}.{type(self).__qualname__} value>")


def parts_that_stand_in(value: object) -> Iterator[BrokenValue | _ValueClass]:
    """Yield the stand-ins for values in arguments, a few levels deep."""
    pending = deque([(value, 0)])
    met: set[int] = set()
    while pending:
        one, depth = pending.popleft()
        if id(one) in met:
            continue
        met.add(id(one))
        if isinstance(one, BrokenValue | _ValueClass):
            yield one
        elif isinstance(one, tuple | list | set | frozenset) and depth < 3:
            pending.extend((part, depth + 1) for part in one)
        elif isinstance(one, dict) and depth < 3:
            pending.extend((part, depth + 1) for pair in one.items() for part in pair)


def _needed(cls: Any) -> ClassNotFoundError:
    """Return the error for a use of the class itself."""
    remedy = "" if _is_refused(cls) else "; make it available under that name, then load what needs it again"
    error: ClassNotFoundError = cls._p_error(_missing(cls) + remedy, name=cls.__module__)
    return error


def _is_refused(cls: Any) -> bool:
    return issubclass(cls._p_error, UntrustedClassError)


def _missing(cls: Any) -> str:
    if _is_refused(cls):
        return printable(cls._p_reason)
    return (
        f"{cls.__qualname__!r} can't be imported from the module {cls.__module__!r}, or has changed ({cls._p_reason})"
    )


def _is_reserved(name: str) -> bool:
    return name.startswith("_p_") or (name.startswith("__") and name.endswith("__") and hasattr(BrokenObject, name))


def broken_class(module: str, name: str, error: BaseException) -> type[BrokenObject]:
    """Return a class that stands for a missing one; `error` says why it is missing."""
    attributes = {"__slots__": (), "__module__": module, "__qualname__": name, **_why(error)}
    return type(name.rpartition(".")[2], (BrokenObject,), attributes)


def broken_value_class(
    module: str, name: str, error: BaseException, is_loading: Callable[[], bool]
) -> type[BrokenValue]:
    """Return the stand-in for a class or function in states; `is_loading` is true while a state is being read."""
    attributes = {
        "__module__": module,
        "__qualname__": name,
        **_why(error),
        "_p_is_loading": staticmethod(is_loading),
    }
    return cast("type[BrokenValue]", _ValueClass(name.rpartition(".")[2], (BrokenValue,), attributes))


def _why(error: BaseException) -> dict[str, object]:
    """Return the attributes that describe an error: only its text, since it would keep the values on its stack."""
    if isinstance(error, UntrustedClassError):
        return {"_p_reason": str(error), "_p_error": UntrustedClassError}
    return {"_p_reason": f"{type(error).__name__}: {error}"}
