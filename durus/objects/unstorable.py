"""Explains which part of an object can't be pickled, and how the object is reached. [OBJ-16]

Only objects in memory are examined; nothing is loaded, and nothing counts as an access.
"""

import reprlib
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from types import FunctionType, ModuleType

from durus.concurrency.uncopied import Uncopied
from durus.persistent import PersistentBase, PersistentObject, told_apart
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.text import printable

_WHOLE = (PersistentBase, type, FunctionType, ModuleType, Enum, Uncopied)
"""Values that pickle refuses as a whole, because of their name or their class."""
CONSOLE = "__console__"
"""The module of definitions in the shell, which nobody can import."""
_MAX_LEVELS = 50
_MAX_SEEN = 100_000
"""How many values the search for a path examines, so that an error does not take long."""


def unstorable(
    obj: PersistentObject, root: PersistentObject, pickle: Callable[[object], bytes], error: Exception
) -> str:
    """Return why `obj` can't be stored: the part that `pickle` fails on, and the path from the root to it."""
    part, value = _failing_part(obj, pickle)
    if (name := _console_name(value if part else obj)) is not None:
        return (
            f"{told_apart(obj)} can't be stored: {f'its part {part} needs' if part else 'it is of'} {name}, which is "
            "defined in this shell, where no other program finds it: write it into a module, such as shop.py in this "
            f"folder, {_how_to_import(name)}, and make the object again; nothing was written, and the transaction is "
            "still open"
        )
    what = f"its part {part}, {reprlib.repr(value)}, can't be pickled" if part else "it can't be pickled"
    remedy = (
        "its class was redefined after it was made, for example by importlib.reload(): open the connection again"
        if "not the same object" in str(error)
        else "take that part out or leave it out in __getstate__()"
    )
    return (
        f"{told_apart(obj)} can't be stored: {what} ({type(error).__name__}: {error}); {way_to(root, obj)}; {remedy}; "
        "nothing was written, and the transaction is still open"
    )


def _console_name(value: object) -> str | None:
    """Return the name of the class or function of the shell that pickle needs for a value, or None."""
    named = value if isinstance(value, type | FunctionType) else type(value)
    return printable(named.__qualname__) if named.__module__ == CONSOLE else None


def _how_to_import(name: str) -> str:
    return "import it" if "<" in name else f"type `from shop import {name.partition('.')[0]}`"


def way_to(root: PersistentObject, obj: PersistentObject) -> str:
    """Return how an object is reached from the root, in words."""
    try:
        way = path(root, obj)
    except Exception:  # if an application's own container raises, there is no path through it
        way = None
    return f"it is reached as {printable(way)}" if way else "nothing that is loaded leads to it from the root"


def path(root: PersistentObject, target: PersistentObject) -> str | None:
    """Return a shortest path from the root to `target`, as `root['a'].b[2]`, None if there is none in memory."""
    pending: deque[tuple[object, str]] = deque([(root, "root")])
    seen = {id(root)}
    while pending and len(seen) < _MAX_SEEN:
        value, way = pending.popleft()
        if value is target:
            return way
        for label, part in _parts(value):
            if id(part) not in seen:
                seen.add(id(part))
                pending.append((part, way + label))
    return None


def _failing_part(obj: PersistentObject, pickle: Callable[[object], bytes]) -> tuple[str, object]:
    """Return the label and the value of the smallest part of the state that can't be pickled."""
    label, value = "", object()
    inside: object = obj
    for _ in range(_MAX_LEVELS):
        found = next((each for each in _parts(inside) if not _is_picklable(each[1], pickle)), None)
        if found is None:
            break
        label, value = label + found[0], found[1]
        if isinstance(value, _WHOLE):
            break
        inside = value
    return label, value


def _is_picklable(value: object, pickle: Callable[[object], bytes]) -> bool:
    try:
        pickle(value)
    except Exception:  # if an application's own pickling method raises, it can't be pickled
        return False
    return True


def _parts(value: object) -> Iterator[tuple[str, object]]:
    """Yield (label, part) for the parts of a value that are in memory."""
    if isinstance(value, PersistentObject) and object.__getattribute__(value, "_p_status") == -1:
        return
    if isinstance(value, PersistentDict | PersistentList):
        value = object.__getattribute__(value, "data")
    if isinstance(value, dict):
        for key, item in list(value.items()):
            yield f"[{reprlib.repr(key)}]", item
            yield f"'s key {reprlib.repr(key)}", key
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield f"[{index}]", item
    elif isinstance(value, set | frozenset):
        for item in value:
            yield f"'s member {reprlib.repr(item)}", item
    elif isinstance(value, PersistentObject):
        for name, item in (PersistentObject.__getstate__(value) or {}).items():
            yield f".{name}", item
    elif not isinstance(value, PersistentBase | type):
        for name, item in list(getattr(value, "__dict__", {}).items()):
            yield f".{name}", item
