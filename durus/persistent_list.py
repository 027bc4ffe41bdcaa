"""PersistentList: a list whose changes its connection notes."""

from collections.abc import Iterable, MutableSequence
from typing import Any, SupportsIndex, TypeVar, overload

from durus.persistent import PersistentObject

T = TypeVar("T")


class PersistentList(PersistentObject, MutableSequence[T]):
    """A persistent sequence; it is stored with the list in its attribute `data`."""

    __slots__ = ("data",)
    __hash__ = None  # type: ignore[assignment]  # mutable, like list

    data: list[T]

    def __init__(self, items: Iterable[T] = ()) -> None:
        self.data = list(items)

    @overload
    def __getitem__(self, i: SupportsIndex) -> T: ...
    @overload
    def __getitem__(self, i: slice) -> "PersistentList[T]": ...
    def __getitem__(self, i: SupportsIndex | slice) -> "T | PersistentList[T]":
        return self._new(self.data[i]) if isinstance(i, slice) else self.data[i]

    def __setitem__(self, i: Any, item: Any) -> None:
        self._p_note_change()
        self.data[i] = item

    def __delitem__(self, i: Any) -> None:
        self._p_note_change()
        del self.data[i]

    def __len__(self) -> int:
        return len(self.data)

    def __contains__(self, item: object) -> bool:
        return item in self.data

    def insert(self, i: int, item: T) -> None:
        self._p_note_change()
        self.data.insert(i, item)

    def append(self, item: T) -> None:
        self._p_note_change()
        self.data.append(item)

    def extend(self, other: Iterable[T]) -> None:
        new = list(other)
        if new:
            self._p_note_change()
            self.data.extend(new)

    def reverse(self) -> None:
        self._p_note_change()
        self.data.reverse()

    def sort(self, *args: Any, **kwargs: Any) -> None:
        self._p_note_change()
        self.data.sort(*args, **kwargs)

    def __copy__(self) -> "PersistentList[T]":
        return self._new(self.data.copy())

    def __add__(self, other: Iterable[T]) -> "PersistentList[T]":
        return self._new(self.data + list(other))

    def __radd__(self, other: Iterable[T]) -> "PersistentList[T]":
        return self._new(list(other) + self.data)

    def __iadd__(self, other: Iterable[T]) -> "PersistentList[T]":
        self.extend(other)
        return self

    def __mul__(self, n: int) -> "PersistentList[T]":
        return self._new(self.data * n)

    __rmul__ = __mul__

    def __imul__(self, n: int) -> "PersistentList[T]":
        self._p_note_change()
        self.data *= n
        return self

    def __eq__(self, other: object) -> bool:
        return bool(self.data == _plain(other))

    def __lt__(self, other: Any) -> bool:
        return bool(self.data < _plain(other))

    def __le__(self, other: Any) -> bool:
        return bool(self.data <= _plain(other))

    def __gt__(self, other: Any) -> bool:
        return bool(self.data > _plain(other))

    def __ge__(self, other: Any) -> bool:
        return bool(self.data >= _plain(other))

    def _new(self, data: list[T]) -> "PersistentList[T]":
        result = type(self).__new__(type(self))
        result.data = data
        return result


def _plain(other: Any) -> Any:
    return other.data if isinstance(other, PersistentList) else other
