"""PersistentList: a list that notes its changes."""

from collections.abc import Callable, Iterable, Iterator, MutableSequence
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeVar, overload

from durus.object_repr import Items
from durus.persistent import PersistentObject, get_slot, implementation

if TYPE_CHECKING:
    from _typeshed import SupportsRichComparison

T = TypeVar("T")


class PersistentList(PersistentObject, MutableSequence[T]):
    """A persistent sequence; it is stored with a list in its attribute `data`.

    Args:
        items: the first items.
    """

    __slots__ = ("data",)
    __hash__ = None  # type: ignore[assignment]  # mutable, like list

    data: list[T]

    def __init__(self, items: Iterable[T] = ()) -> None:
        self.data = list(items)

    def _p_get_items(self) -> Items:
        return Items.of("data", get_slot(self, "data"))

    @overload
    def __getitem__(self, i: SupportsIndex) -> T: ...
    @overload
    def __getitem__(self, i: slice) -> list[T]: ...
    def __getitem__(self, i: SupportsIndex | slice) -> T | list[T]:
        """Return an item, or a plain list of those in a slice."""
        return self.data[i]

    @overload
    def __setitem__(self, i: SupportsIndex, item: T) -> None: ...
    @overload
    def __setitem__(self, i: slice, item: Iterable[T]) -> None: ...
    def __setitem__(self, i: Any, item: Any) -> None:
        if isinstance(i, slice):
            new = self.data.copy()
            new[i] = _plain(item)
            self._replace(new)
        else:
            self.data[i]  # IndexError, before anything changes
            self._p_note_change()
            self.data[i] = item

    def __delitem__(self, i: SupportsIndex | slice) -> None:
        if isinstance(i, slice):
            new = self.data.copy()
            del new[i]
            self._replace(new)
        else:
            self.data[i]
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
        self._replace(self.data[::-1])

    def sort(self, *, key: "Callable[[T], SupportsRichComparison] | None" = None, reverse: bool = False) -> None:
        items: list[Any] = self.data
        self._replace(sorted(items, key=key, reverse=reverse))

    def clear(self) -> None:
        self._replace([])

    def copy(self) -> "PersistentList[T]":
        """Return a new PersistentList with the same items."""
        return self.__copy__()

    def __iter__(self) -> Iterator[T]:
        return iter(self.data)

    def __reversed__(self) -> Iterator[T]:
        return reversed(self.data)

    def __copy__(self) -> "PersistentList[T]":
        return self._p_copy(data=self.data.copy())

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
        self._replace(self.data * n)
        return self

    def __eq__(self, other: object) -> bool:
        return bool(self.data == _plain(other))

    def __lt__(self, other: "PersistentList[T] | list[T]") -> bool:
        return bool(self.data < _plain(other))

    def __le__(self, other: "PersistentList[T] | list[T]") -> bool:
        return bool(self.data <= _plain(other))

    def __gt__(self, other: "PersistentList[T] | list[T]") -> bool:
        return bool(self.data > _plain(other))

    def __ge__(self, other: "PersistentList[T] | list[T]") -> bool:
        return bool(self.data >= _plain(other))

    def _replace(self, new: list[T]) -> None:
        """Take over the items of a list, which is a change unless they are the same objects."""
        if len(new) != len(self.data) or any(one is not other for one, other in zip(new, self.data, strict=True)):
            self._p_note_change()
            self.data[:] = new

    def _new(self, data: list[T]) -> "PersistentList[T]":
        result = type(self).__new__(type(self))
        result.data = data
        return result


def _plain(other: Any) -> Any:
    return other.data if isinstance(other, PersistentList) else other


if not TYPE_CHECKING and implementation == "C":
    from durus import _persistent

    _persistent.join_collection(1, PersistentList)

    class PersistentList(_persistent.ListBase, PersistentList[T]):
        __slots__ = ()
        __doc__ = PersistentList.__doc__
