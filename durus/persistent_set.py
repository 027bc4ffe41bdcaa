"""PersistentSet: a set that notes its changes."""

from collections.abc import Iterable, Iterator, MutableSet
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, TypeVar, cast

from durus.object_repr import Items
from durus.persistent import PersistentObject, get_slot, implementation

T = TypeVar("T")
U = TypeVar("U")


class PersistentSet(PersistentObject, MutableSet[T]):
    """A persistent set; it is stored with a set in its attribute `s`.

    As in Durus 4.3 it is not equal to a plain set, and can't be compared with one: compare its `s`.

    Args:
        items: the first items.
    """

    __slots__ = ("s",)
    __hash__ = None  # type: ignore[assignment]  # mutable, like set

    s: set[T]

    def __init__(self, items: Iterable[T] = (), /) -> None:
        self.s = set(_plain(items))

    def _p_get_items(self) -> Items:
        return Items.of("s", get_slot(self, "s"))

    def __len__(self) -> int:
        return len(self.s)

    def __iter__(self) -> Iterator[T]:
        return iter(self.s)

    def __contains__(self, item: object) -> bool:
        return item in self.s

    def copy(self) -> "PersistentSet[T]":
        """Return a new PersistentSet with the same items."""
        return self.__copy__()

    def __copy__(self) -> "PersistentSet[T]":
        return self._p_copy(s=self.s.copy())

    # Changes, which are noted only if they change something

    def add(self, item: T) -> None:
        if item not in self.s:
            self._p_note_change()
            self.s.add(item)

    def discard(self, item: object) -> None:
        if item in self.s:
            self._p_note_change()
            self.s.discard(item)

    def remove(self, item: T) -> None:
        if item in self.s:
            self._p_note_change()
        self.s.remove(item)

    def pop(self) -> T:
        if self.s:
            self._p_note_change()
        return self.s.pop()

    def clear(self) -> None:
        if self.s:
            self._p_note_change()
            self.s.clear()

    def update(self, *others: Iterable[T]) -> None:
        """Add all items of the `others`."""
        self._replace(self.s.union(*map(_plain, others)))

    def intersection_update(self, *others: Iterable[object]) -> None:
        """Keep only the items that all `others` have, too."""
        self._replace(self.s.intersection(*map(_plain, others)))

    def difference_update(self, *others: Iterable[object]) -> None:
        """Remove all items of the `others`."""
        self._replace(self.s.difference(*map(_plain, others)))

    def symmetric_difference_update(self, other: Iterable[T]) -> None:
        """Remove the items of the `other` that are in the set, and add its remaining ones."""
        self._replace(self.s.symmetric_difference(_plain(other)))

    def _replace(self, new: set[T]) -> None:
        if new != self.s:
            self._p_note_change()
            self.s = new

    def __ior__(self, other: AbstractSet[T]) -> "PersistentSet[T]":  # type: ignore[override,misc]  # of the same T
        self.update(_set(other))
        return self

    def __iand__(self, other: AbstractSet[Any]) -> "PersistentSet[T]":
        self.intersection_update(_set(other))
        return self

    def __isub__(self, other: AbstractSet[Any]) -> "PersistentSet[T]":
        self.difference_update(_set(other))
        return self

    def __ixor__(self, other: AbstractSet[T]) -> "PersistentSet[T]":  # type: ignore[override,misc]  # of the same T
        self.symmetric_difference_update(_set(other))
        return self

    # New sets

    def union(self, *others: Iterable[T]) -> "PersistentSet[T]":
        """Return a new set of the items of this one and all `others`."""
        return self._new(self.s.union(*map(_plain, others)))

    def intersection(self, *others: Iterable[object]) -> "PersistentSet[T]":
        """Return a new set of the items that all `others` have, too."""
        return self._new(self.s.intersection(*map(_plain, others)))

    def difference(self, *others: Iterable[object]) -> "PersistentSet[T]":
        """Return a new set of the items that none of the `others` has."""
        return self._new(self.s.difference(*map(_plain, others)))

    def symmetric_difference(self, other: Iterable[T]) -> "PersistentSet[T]":
        """Return a new set of the items that either this set or the `other` has, but not both."""
        return self._new(self.s.symmetric_difference(_plain(other)))

    def __or__(self, other: AbstractSet[U]) -> "PersistentSet[T | U]":
        return self._new(self.s | _set(other))

    def __and__(self, other: AbstractSet[Any]) -> "PersistentSet[T]":
        return self._new(self.s & _set(other))

    def __sub__(self, other: AbstractSet[Any]) -> "PersistentSet[T]":
        return self._new(self.s - _set(other))

    def __xor__(self, other: AbstractSet[U]) -> "PersistentSet[T | U]":
        return self._new(self.s ^ _set(other))

    __ror__ = __or__
    __rand__ = __and__
    __rxor__ = __xor__

    def __rsub__(self, other: AbstractSet[U]) -> "PersistentSet[U]":  # type: ignore[misc]  # as set has it
        return self._new(_set(other) - self.s)

    def _new(self, items: AbstractSet[U]) -> "PersistentSet[U]":
        result = cast("PersistentSet[U]", type(self).__new__(type(self)))
        result.s = items if isinstance(items, set) else set(items)
        return result

    # Comparisons

    def issubset(self, other: Iterable[object]) -> bool:
        return self.s.issubset(_plain(other))

    def issuperset(self, other: Iterable[object]) -> bool:
        return self.s.issuperset(_plain(other))

    def isdisjoint(self, other: Iterable[Any]) -> bool:
        return self.s.isdisjoint(_plain(other))

    def __eq__(self, other: object) -> bool:
        return self.s == other.s if isinstance(other, PersistentSet) else NotImplemented

    def __lt__(self, other: object) -> bool:
        return self.s < other.s if isinstance(other, PersistentSet) else NotImplemented

    def __le__(self, other: object) -> bool:
        return self.s <= other.s if isinstance(other, PersistentSet) else NotImplemented

    def __gt__(self, other: object) -> bool:
        return self.s > other.s if isinstance(other, PersistentSet) else NotImplemented

    def __ge__(self, other: object) -> bool:
        return self.s >= other.s if isinstance(other, PersistentSet) else NotImplemented


def _plain(items: Iterable[U]) -> Iterable[U]:
    return items.s if isinstance(items, PersistentSet) else items


def _set(other: AbstractSet[U]) -> AbstractSet[U]:
    """Return the operand of an operator, which takes only sets."""
    if not isinstance(other, AbstractSet):
        raise TypeError(f"an operator of PersistentSet takes a set, not {type(other).__name__}; use its method")
    return other.s if isinstance(other, PersistentSet) else other


if not TYPE_CHECKING and implementation == "C":
    from durus import _persistent

    _persistent.join_collection(2, PersistentSet)

    class PersistentSet(_persistent.SetBase, PersistentSet[T]):
        __slots__ = ()
        __doc__ = PersistentSet.__doc__
