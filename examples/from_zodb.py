"""Copy a ZODB FileStorage to a new Durus file, object by object. Needs ZODB beside Durus.

    python from_zodb.py Data.fs new.durus [--class shop.Order=store.Order ...]

PersistentMapping becomes PersistentDict, PersistentList stays one, BTrees and Buckets become BTree, TreeSets become
BTree with True as values, and Sets PersistentSet. A class of an application that inherits from persistent.Persistent
becomes the class that --class names for it, which inherits from durus.persistent.Persistent and gets the same state.
All other values are copied as they are.
"""

import argparse
import importlib
import io
import os
import pickle
import sys
from collections import deque
from collections.abc import Iterable
from typing import Any

import persistent
import ZODB
import ZODB.FileStorage

from durus.btree import BTree
from durus.connection import Connection
from durus.persistent import PersistentObject
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.persistent_set import PersistentSet

_OBJECTS_IN_A_COMMIT = 10_000


def import_class(path: str) -> type[PersistentObject]:
    module, _, name = path.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    if not (isinstance(found, type) and issubclass(found, PersistentObject)):
        raise SystemExit(f"{path} is not a subclass of durus.persistent.PersistentObject")
    return found


def path_of(cls: type) -> str:
    return f"{cls.__module__}.{cls.__name__}"


class Copier:
    """Makes a new object for each old one when it is first met, and fills it later."""

    def __init__(self, connection: Connection, classes: dict[str, type[PersistentObject]]) -> None:
        self._connection = connection
        self._classes = classes
        self._new: dict[bytes, PersistentObject] = {}
        self._pending: deque[tuple[Any, PersistentObject]] = deque()

    def copy(self, old_root: Any) -> int:
        """Copy all that the old root reaches; return how many objects that were."""
        self._take(old_root, self._connection.get_root())
        count = 0
        while self._pending:
            old, new = self._pending.popleft()
            self._fill(old, new)
            old._p_deactivate()
            count += 1
            if count % _OBJECTS_IN_A_COMMIT == 0:
                self._connection.commit()
                print(f"{count} objects copied, {len(self._pending)} known to follow")
        self._connection.commit()
        return count

    def _take(self, old: Any, new: PersistentObject) -> PersistentObject:
        self._new[old._p_oid] = new
        self._pending.append((old, new))
        return new

    def _new_of(self, old: Any) -> PersistentObject:
        known = self._new.get(old._p_oid)
        return self._take(old, self._make(type(old))) if known is None else known

    def _make(self, old_class: type) -> PersistentObject:
        path = path_of(old_class)
        if path in self._classes:
            cls = self._classes[path]
            return cls.__new__(cls)
        if path == "persistent.mapping.PersistentMapping":
            return PersistentDict()
        if path == "persistent.list.PersistentList":
            return PersistentList()
        if path.startswith("BTrees."):
            name = old_class.__name__.removesuffix("Py")
            if name.endswith(("BTree", "Bucket", "TreeSet")):
                return BTree()
            if name.endswith("Set"):
                return PersistentSet()
        raise SystemExit(f"there are objects of {path}: name the class that they are to have, with --class {path}=...")

    def _fill(self, old: Any, new: PersistentObject) -> None:
        if isinstance(new, BTree | PersistentDict):
            if hasattr(old, "items"):
                new.update(self._copied(list(old.items())))
            else:
                new.update((key, True) for key in self._copied(list(old)))
        elif isinstance(new, PersistentList):
            new.extend(self._copied(list(old)))
        elif isinstance(new, PersistentSet):
            new.update(self._copied(list(old)))
        else:
            new.__setstate__(self._copied(old.__getstate__()))
            new._p_note_change()

    def _copied(self, value: Any) -> Any:
        """Return a copy of a value, with new objects in place of the old ones that it refers to, at any depth."""
        file = io.BytesIO()
        old_objects: list[Any] = []
        _Pickler(file, old_objects).dump(value)
        return _Unpickler(file.getvalue(), [self._new_of(old) for old in old_objects]).load()


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, old_objects: list[Any]) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._old_objects = old_objects

    def persistent_id(self, obj: Any) -> int | None:
        if not isinstance(obj, persistent.Persistent):
            return None
        self._old_objects.append(obj)
        return len(self._old_objects) - 1


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, new_objects: list[PersistentObject]) -> None:
        super().__init__(io.BytesIO(data))
        self._new_objects = new_objects

    def persistent_load(self, number: int) -> PersistentObject:
        return self._new_objects[number]


def main(arguments: Iterable[str]) -> None:
    parser = argparse.ArgumentParser(description="Copy a ZODB FileStorage to a new Durus file.")
    parser.add_argument("old", help="the FileStorage, often Data.fs; it is only read")
    parser.add_argument("new", help="the Durus file to make")
    parser.add_argument("--class", dest="classes", action="append", default=[], metavar="OLD=NEW")
    options = parser.parse_args(list(arguments))
    if os.path.exists(options.new):
        raise SystemExit(f"{options.new}: the file already exists")
    classes = {old: import_class(new) for old, _, new in (pair.partition("=") for pair in options.classes)}
    database = ZODB.DB(ZODB.FileStorage.FileStorage(options.old, read_only=True))
    try:
        with Connection(options.new) as connection:
            count = Copier(connection, classes).copy(database.open().root())
    except BaseException:
        os.unlink(options.new)
        raise
    finally:
        database.close()
    print(f"{count} objects copied from {options.old} to {options.new}")


if __name__ == "__main__":
    main(sys.argv[1:])
