"""Finds how one state differs from another: the parts that pickling would store differently. Statement OBJ-87.

Values are compared by what pickle reads of them, and not by their own __eq__(): by type, item by item, and instances
of other classes by what they reduce to. References are equal if they refer to the same oid.
"""

import reprlib
import struct
from collections import deque
from collections.abc import Hashable, Iterable
from types import FunctionType
from typing import Any, NamedTuple

from durus.objects.pickling import Reducers
from durus.persistent import PersistentBase, get_slot

_ATOMS = frozenset({int, str, bytes, bytearray, bool, type(None)})
_GLOBALS = (type, FunctionType)
"""Types whose values are pickled by name."""
_MAX_FOUND = 50


class Difference(NamedTuple):
    """A part of a state that has changed."""

    path: tuple[str, ...]
    """The path to it, such as (".friends", "[3]")."""
    what: str
    """One of "was added", "was removed" and "was changed"."""


def differences(cls: type, before: object, after: object) -> list[Difference]:
    """Return at most 50 differences between two states of a class; none if both are pickled to the same.

    Errors of pickling a value are raised.
    """
    return _Comparison().run(cls, before, after)


class _Comparison:
    def __init__(self) -> None:
        self._reducers = Reducers()
        self._found: list[Difference] = []
        self._pending: deque[tuple[tuple[str, ...], object, object]] = deque()
        self._seen: dict[tuple[int, int], tuple[object, object]] = {}
        """The pairs whose comparison has begun, because values may contain themselves."""
        self._tokens: dict[int, tuple[object, int]] = {}
        """By id(): the values that have a number, each looked at once although it may occur many times."""
        self._numbers: dict[Hashable, int] = {}

    def run(self, cls: type, before: object, after: object) -> list[Difference]:
        self._compare_states((), cls, before, after)
        while self._pending and len(self._found) < _MAX_FOUND:
            self._compare(*self._pending.popleft())
        return self._found

    def _add(self, path: tuple[str, ...], what: str) -> None:
        self._found.append(Difference(path, what))

    def _compare(self, path: tuple[str, ...], before: object, after: object) -> None:
        if before is after:
            return
        kind = type(after)
        if issubclass(type(before), PersistentBase) or issubclass(kind, PersistentBase):
            if _reference(before) != _reference(after):
                self._add(path, "was changed")
        elif issubclass(type(before), _GLOBALS) and issubclass(kind, _GLOBALS):
            if _name(before) != _name(after):
                self._add(path, "was changed")
        elif type(before) is not kind:
            self._add(path, "was changed")
        elif kind in _ATOMS:
            if before != after:
                self._add(path, "was changed")
        elif isinstance(before, float) and isinstance(after, float) and kind is float:
            if _bits(before) != _bits(after):
                self._add(path, "was changed")
        elif (id(before), id(after)) not in self._seen:
            self._seen[id(before), id(after)] = before, after
            self._compare_parts(path, before, after)

    def _compare_parts(self, path: tuple[str, ...], before: Any, after: Any) -> None:
        kind = type(after)
        if kind is list or kind is tuple:
            self._compare_sequences(path, before, after)
        elif kind is dict:
            self._compare_pairs(path, before.items(), after.items(), "[{}]")
        elif kind is set or kind is frozenset:
            self._compare_pairs(path, ((each, None) for each in before), ((each, None) for each in after), "{{{}}}")
        else:
            self._compare_reduced(path, kind, self._reducers[kind](before), self._reducers[kind](after))

    def _compare_sequences(self, path: tuple[str, ...], before: Any, after: Any) -> None:
        start, end = self._common(before, after) if len(before) != len(after) else (0, 0)
        count = max(len(before), len(after)) - end
        for index in range(start, count):
            way = (*path, f"[{index}]")
            if index >= len(after) - end:
                self._add(way, "was removed")
            elif index >= len(before) - end:
                self._add(way, "was added")
            else:
                self._pending.append((way, before[index], after[index]))

    def _common(self, before: Any, after: Any) -> tuple[int, int]:
        """Return how many items two sequences have in common at their start, and at their end."""
        try:
            one, other = [self._token(each) for each in before], [self._token(each) for each in after]
        except RecursionError:  # a list that contains itself; then its items are compared one by one
            return 0, 0
        shorter = min(len(one), len(other))
        start = next((index for index in range(shorter) if one[index] != other[index]), shorter)
        end = next((i for i in range(shorter - start) if one[-1 - i] != other[-1 - i]), shorter - start)
        return start, end

    def _compare_pairs(
        self,
        path: tuple[str, ...],
        before: Iterable[tuple[Any, Any]],
        after: Iterable[tuple[Any, Any]],
        label: str,
        is_of_attributes: bool = False,
    ) -> None:
        """Compare keys and values in any order."""
        old = {self._token(key): (key, value) for key, value in before}
        new = {self._token(key): (key, value) for key, value in after}
        for token in dict.fromkeys((*old, *new)):
            key = (old.get(token) or new[token])[0]
            way = (*path, label.format(key if is_of_attributes else _shown(key)))
            if token not in new:
                self._add(way, "was removed")
            elif token not in old:
                self._add(way, "was added")
            else:
                self._pending.append((way, old[token][1], new[token][1]))

    def _compare_states(self, path: tuple[str, ...], cls: type, before: Any, after: Any) -> None:
        old, new = _attributes_in(cls, before), _attributes_in(cls, after)
        if old is None or new is None:
            self._pending.append((path, before, after))
        else:
            self._compare_pairs(path, old.items(), new.items(), ".{}", is_of_attributes=True)

    def _compare_reduced(self, path: tuple[str, ...], cls: type, before: Any, after: Any) -> None:
        if isinstance(before, str) or isinstance(after, str):
            if before != after:
                self._add(path, "was changed")
            return
        old, new = (*before, *(6 - len(before)) * (None,)), (*after, *(6 - len(after)) * (None,))
        if _name(old[0]) != _name(new[0]) or len(old[1]) != len(new[1]):
            self._add(path, "was changed")
            return
        for one, other in zip(old[1], new[1], strict=True):
            self._pending.append((path, one, other))
        self._compare_states(path, cls, old[2], new[2])
        if old[3] is not None or new[3] is not None:
            self._compare_sequences(path, list(old[3] or ()), list(new[3] or ()))
        if old[4] is not None or new[4] is not None:
            self._compare_pairs(path, list(old[4] or ()), list(new[4] or ()), "[{}]")

    def _token(self, value: Any) -> int:
        """Return the same number for values that are pickled to the same; RecursionError if one contains itself."""
        known = self._tokens.get(id(value))
        if known is None:
            known = value, self._numbers.setdefault(self._key(value), len(self._numbers))
            self._tokens[id(value)] = known
        return known[1]

    def _key(self, value: Any) -> Hashable:
        kind = type(value)
        if issubclass(kind, PersistentBase):
            return PersistentBase, _reference(value)
        if kind in _ATOMS:
            return kind, bytes(value) if kind is bytearray else value
        if kind is float:
            return kind, _bits(value)
        if issubclass(kind, _GLOBALS):
            return "global", _name(value)
        if kind is list or kind is tuple:
            return kind, tuple(self._token(each) for each in value)
        if kind is set or kind is frozenset:
            return kind, frozenset(self._token(each) for each in value)
        if kind is dict:
            return kind, frozenset((self._token(key), self._token(each)) for key, each in value.items())
        reduced = self._reducers[kind](value)
        if isinstance(reduced, str):
            return kind, reduced
        function, arguments, state, items, pairs = (*reduced, *(6 - len(reduced)) * (None,))[:5]
        attributes = _attributes_in(kind, state)
        return (
            kind,
            _name(function),
            self._token(arguments),
            self._token(state if attributes is None else attributes),
            self._token(None if items is None else list(items)),
            self._token(None if pairs is None else dict(pairs)),
        )


def _reference(value: object) -> bytes | int:
    """Return the oid of a persistent object; for any other one a value that equals nothing else."""
    oid: bytes | None = get_slot(value, "_p_oid") if issubclass(type(value), PersistentBase) else None
    return id(value) if oid is None else oid


def _bits(number: float) -> bytes:
    return b"nan" if number != number else struct.pack(">d", number)


def _name(function: object) -> object:
    """Return the name by which a class or function is pickled, or the object itself if it has none."""
    name = getattr(function, "__qualname__", None)
    return function if name is None else (getattr(function, "__module__", None), name)


def _attributes_in(cls: type, state: Any) -> dict[Any, Any] | None:
    """Return the attributes in a state of an instance, without cached properties; None for other forms of states."""
    parts: tuple[dict[Any, Any] | None, ...]
    if type(state) is dict:
        parts = (state,)
    elif type(state) is tuple and len(state) == 2 and all(each is None or type(each) is dict for each in state):
        parts = state  # as object.__getstate__() returns it for an instance with slots
    else:
        return None
    return {name: value for part in parts for name, value in (part or {}).items() if not _is_computed(cls, name)}


def _is_computed(cls: type, name: object) -> bool:
    """Return whether an attribute was put into the __dict__ of an instance by a cached property of its class."""
    if not isinstance(name, str):
        return False
    found = next((owner.__dict__[name] for owner in cls.__mro__ if name in owner.__dict__), None)
    is_getter = hasattr(type(found), "__get__") and not hasattr(type(found), "__set__")
    return is_getter and not callable(found) and not isinstance(found, classmethod | staticmethod)


def _shown(value: object) -> str:
    if issubclass(type(value), PersistentBase):
        return f"{type(value).__name__} oid {int.from_bytes(get_slot(value, '_p_oid') or b'', 'big')}"
    return reprlib.repr(value)
