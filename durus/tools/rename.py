"""Renames classes in a storage, without importing any. Statements OBJ-42 and OBJ-43."""

from collections import Counter
from collections.abc import Iterator

from durus.error import ArgumentError, RecordError
from durus.oid import format_oid
from durus.progress import STEP_RECORDS, Progress
from durus.records.contents import read_contents
from durus.records.record import data_of, pack_record, unpack_record
from durus.records.rewrite import Rename, rename_classes
from durus.storage import Storage


class Renaming:
    """The records of a storage that change when a class or a module is renamed."""

    def __init__(self, storage: Storage, old: str, new: str) -> None:
        """`old` and `new` are paths as in [OBJ-42]; ArgumentError if they are not paths."""
        self._storage = storage
        self._new_path = _new_path_of(old, new)
        self._changed: list[bytes] = []
        self.objects: Counter[tuple[str, str]] = Counter()
        """How many objects change their class, by its old and its new path."""
        self.others = 0
        """How many further records change: they refer to such objects, or hold such values."""

    def find(self) -> Iterator[Progress]:
        """Read all records; RecordError for one that can't be read, or can't have the new path."""
        for number, (oid, record) in enumerate(self._storage.gen_oid_record()):
            if number % STEP_RECORDS == 0:
                yield Progress("read", number, None)
            data = data_of(record)
            try:
                new_data = rename_classes(data, self._new_path)
                if new_data is not data:
                    self._changed.append(oid)
                    self._count(read_contents(data).class_name, read_contents(new_data).class_name)
            except RecordError as error:
                raise RecordError(f"the record of oid {format_oid(oid)}: {error}; nothing is changed") from error

    def _count(self, old_class: str, new_class: str) -> None:
        if new_class != old_class:
            self.objects[old_class, new_class] += 1
        else:
            self.others += 1

    def store(self) -> None:
        """Store the changes that find() has found, in one transaction, which the storage holds in memory. [OBJ-43]"""
        if self._changed:
            self._storage.begin()
            for oid in self._changed:
                _, data, refs = unpack_record(self._storage.load(oid))
                self._storage.store(oid, pack_record(oid, rename_classes(data, self._new_path), refs))
            self._storage.end()


def _new_path_of(old: str, new: str) -> Rename:
    if not all(part.isidentifier() for part in [*old.split("."), *new.replace(":", ".", 1).split(".")]):
        raise ArgumentError(f"{old!r} and {new!r} must be paths of classes or modules, such as package.module.Class")
    new_module, _, new_name = new.rpartition(":" if ":" in new else ".")

    def new_path(module: str, name: str) -> tuple[str, str]:
        if f"{module}.".startswith(f"{old}."):
            if ":" in new:
                raise ArgumentError(f"{old} is a module in this storage, and {new} a class: give the path of a module")
            return new + module[len(old) :], name
        path = f"{module}.{name}"
        if f"{path}.".startswith(f"{old}."):
            if not new_module:
                raise ArgumentError(f"{old} is a class in this storage: give the module of {new}, too: MODULE.{new}")
            return new_module, new_name + path[len(old) :]
        return module, name

    return new_path
