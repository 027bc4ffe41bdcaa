"""PersistentDict: a dict that notes its changes."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

from durus.object_repr import Items
from durus.pairs import HasItems, HasKeys, Pairs, pairs_of
from durus.persistent import PersistentObject, get_slot, implementation

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")


class PersistentDict(PersistentObject, MutableMapping[K, V]):
    """A persistent mapping; it is stored with a dict in its attribute `data`.

    Args:
        data: a mapping, or pairs of key and value.
        kwargs: further items.
    """

    __slots__ = ("data",)
    __hash__ = None  # type: ignore[assignment]  # mutable, like dict

    data: dict[K, V]

    @overload
    def __init__(self, data: HasItems[K, V], /) -> None: ...
    @overload
    def __init__(self, data: HasKeys[K, V], /) -> None: ...
    @overload
    def __init__(self, data: Iterable[tuple[K, V]] = (), /) -> None: ...
    @overload
    def __init__(self: "PersistentDict[str, V]", data: HasItems[str, V], /, **kwargs: V) -> None: ...
    @overload
    def __init__(self: "PersistentDict[str, V]", data: Iterable[tuple[str, V]] = (), /, **kwargs: V) -> None: ...
    def __init__(self, data: Any = (), /, **kwargs: Any) -> None:
        self.data = dict(data if isinstance(data, dict) else pairs_of(data), **kwargs)

    def _p_get_items(self) -> Items:
        return Items.of("data", get_slot(self, "data"))

    def __getitem__(self, key: K) -> V:
        return self.data[key]

    def __setitem__(self, key: K, item: V) -> None:
        hash(key)  # TypeError, before anything changes
        self._p_note_change()
        self.data[key] = item

    def __delitem__(self, key: K) -> None:
        if key in self.data:
            self._p_note_change()
        del self.data[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def __contains__(self, key: object) -> bool:
        return key in self.data

    def __eq__(self, other: object) -> bool:
        """Whether the other is a PersistentDict with equal items; a plain dict is never equal, as in Durus 4.3."""
        return self.data == other.data if isinstance(other, PersistentDict) else NotImplemented

    def __reversed__(self) -> Iterator[K]:
        return reversed(self.data)

    @classmethod
    def fromkeys(cls, keys: Iterable[K], value: V = None) -> "PersistentDict[K, V]":  # type: ignore[assignment]  # as dict has it
        """Return a new PersistentDict with these `keys`, all with the same `value`."""
        result: PersistentDict[K, V] = cls()
        result.data = dict.fromkeys(keys, value)
        return result

    def __or__(self, other: Mapping[K, V]) -> "PersistentDict[K, V]":
        result = self.copy()
        result.data.update(_plain(other))
        return result

    def __ror__(self, other: Mapping[K, V]) -> "PersistentDict[K, V]":
        result = self.copy()
        result.data = {**_plain(other), **self.data}
        return result

    def __ior__(self, other: Mapping[K, V] | Iterable[tuple[K, V]]) -> "PersistentDict[K, V]":
        self.update(other)
        return self

    def __copy__(self) -> "PersistentDict[K, V]":
        return self._p_copy(data=self.data.copy())

    def copy(self) -> "PersistentDict[K, V]":
        """Return a new PersistentDict with the same items."""
        return self.__copy__()

    def keys(self) -> list[K]:  # type: ignore[override]  # a list, as applications of Durus expect
        return list(self.data)

    def values(self) -> list[V]:  # type: ignore[override]  # as keys()
        return list(self.data.values())

    def items(self) -> list[tuple[K, V]]:  # type: ignore[override]  # as keys()
        return list(self.data.items())

    def iterkeys(self) -> Iterator[K]:
        return iter(self.data)

    def itervalues(self) -> Iterator[V]:
        return iter(self.data.values())

    def iteritems(self) -> Iterator[tuple[K, V]]:
        return iter(self.data.items())

    def has_key(self, key: K) -> bool:
        warnings.warn("has_key() is deprecated; use the operator `in`", DeprecationWarning, stacklevel=2)
        return key in self.data

    @overload
    def get(self, key: K) -> V | None: ...
    @overload
    def get(self, key: K, failobj: V | D) -> V | D: ...
    def get(self, key: K, failobj: object = None) -> object:
        return self.data.get(key, failobj)

    def clear(self) -> None:
        if self.data:
            self._p_note_change()
            self.data.clear()

    @overload
    def update(self, other: Pairs[K, V] = (), /) -> None: ...
    @overload
    def update(self: "PersistentDict[str, V]", other: HasItems[str, V], /, **kwargs: V) -> None: ...
    @overload
    def update(self: "PersistentDict[str, V]", other: Iterable[tuple[str, V]] = (), /, **kwargs: V) -> None: ...
    def update(self, other: Any = (), /, **kwargs: Any) -> None:
        """Set the items of a mapping or of pairs, then the keywords, in one change. [OBJ-94]

        Args:
            other: a mapping, or pairs of key and value.
            kwargs: further items.
        """
        new: Any = dict(other if isinstance(other, dict) else pairs_of(other), **kwargs)
        if new:
            self._p_note_change()
            self.data.update(new)

    def setdefault(self, key: K, failobj: V = None) -> V:  # type: ignore[assignment]  # None, as dict has it
        if key not in self.data:
            self._p_note_change()
        return self.data.setdefault(key, failobj)

    @overload
    def pop(self, key: K) -> V: ...
    @overload
    def pop(self, key: K, default: V | D, /) -> V | D: ...
    def pop(self, key: K, *args: Any) -> Any:
        if key in self.data:
            self._p_note_change()
        return self.data.pop(key, *args)

    def popitem(self) -> tuple[K, V]:
        if self.data:
            self._p_note_change()
        return self.data.popitem()


def _plain(other: Mapping[K, V]) -> Mapping[K, V]:
    if not isinstance(other, Mapping):
        raise TypeError(f"the operator | of a PersistentDict takes a mapping, not {type(other).__name__}")
    return other.data if isinstance(other, PersistentDict) else other


if not TYPE_CHECKING and implementation == "C":
    from durus import _persistent

    _persistent.join_collection(0, PersistentDict)

    class PersistentDict(_persistent.DictBase, PersistentDict[K, V]):
        __slots__ = ()
        __doc__ = PersistentDict.__doc__
