"""Where the mappings of this package take items from: everything that dict and Durus 4.3 accept. Statement OBJ-94."""

from collections.abc import Iterable
from typing import Any, Protocol, TypeAlias, TypeVar

K = TypeVar("K")
V = TypeVar("V")
K_co = TypeVar("K_co", covariant=True)
V_co = TypeVar("V_co", covariant=True)


class HasItems(Protocol[K_co, V_co]):
    """Gives pairs of key and value by items()."""

    def items(self) -> Iterable[tuple[K_co, V_co]]: ...


class HasKeys(Protocol[K, V_co]):
    """Gives keys by keys(), and values by subscripts."""

    def keys(self) -> Iterable[K]: ...

    def __getitem__(self, key: K, /) -> V_co: ...


Pairs: TypeAlias = HasItems[K, V] | HasKeys[K, V] | Iterable[tuple[K, V]]


def pairs_of(source: Pairs[K, V]) -> Iterable[tuple[K, V]]:
    """Return pairs of key and value.

    Args:
        source: a mapping, an object that only has iteritems(), items() or keys(), or the pairs themselves.
    """
    anything: Any = source
    if hasattr(anything, "iteritems"):  # one at a time, where items() would make a list of all
        pairs: Iterable[tuple[K, V]] = anything.iteritems()
    elif hasattr(anything, "items"):
        pairs = anything.items()
    elif hasattr(anything, "keys"):
        pairs = ((key, anything[key]) for key in anything.keys())  # noqa: SIM118  # maybe it gives no keys otherwise
    else:
        pairs = anything
    return pairs
