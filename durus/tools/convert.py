"""Copies a whole database, from any kind of storage to any other, with new dense oids. Statements OBJ-44 to OBJ-46.

The records are read once, in the order of their new oids, and kept in a temporary file until all are known, because a
SHELF-1 file begins with the length of its content.
"""

import os
from collections.abc import Callable, Iterator

from durus.error import DurusKeyError, FormatError, RecordError
from durus.file_storage import FileStorage, utc_now
from durus.files.file import File, FileSystem, OperatingSystem, Path, path_text
from durus.files.publishing import publishing
from durus.files.spool import Spool
from durus.oid import ROOT_OID, format_oid, oid_from_int
from durus.progress import STEP_RECORDS, Progress
from durus.records.record import join_refs, pack_record, split_oids, unpack_record
from durus.records.rewrite import renumber_references
from durus.storage import Storage


def copy_to_file(
    source: Storage,
    path: Path,
    make_storage: Callable[[str], Storage] | None = None,
    *,
    permissions_of: Path | None = None,
    file_system: FileSystem | None = None,
    clock: Callable[[], str] = utc_now,
) -> Iterator[Progress]:
    """Copy what the root of `source` reaches into a new file, in steps. [OBJ-44]

    It is a SHELF-1 file, unless make_storage(path) makes another kind of storage in a file; that one gets all in one
    commit, which it may hold in memory. The file has the permissions of the file `permissions_of`, if that is given.
    AlreadyExistsError if the file exists, FormatError if a reference leads to no object, RecordError if a record can't
    be read, FileError if the operating system refuses something.
    """
    path = os.path.realpath(path_text(path))
    file_system = OperatingSystem() if file_system is None else file_system
    like = None if permissions_of is None else file_system.open(path_text(permissions_of), "read")
    try:
        with publishing(path, file_system) as part, Spool(path) as spool:
            copy = _Copy(source, spool)
            yield from copy.read()
            if make_storage is None:
                yield from _write_file(copy, file_system, part, like, clock())
            else:
                if like is not None:
                    _make_private(file_system, part, like)
                _write_storage(copy, make_storage(part))
    finally:
        if like is not None:
            like.close()


def copy_to_storage(source: Storage, target: Storage) -> Iterator[Progress]:
    """Copy what the root of `source` reaches into an empty storage, in steps. [OBJ-44]

    Errors are as for copy_to_file(), and those of the storage.
    """
    with Spool() as spool:
        copy = _Copy(source, spool)
        yield from copy.read()
        yield Progress("write", 0, copy.count)
        target.take_records(copy.records())


def _make_private(file_system: FileSystem, path: str, like: File) -> None:
    """Make an empty file with the permissions of another one."""
    file = file_system.open(path, "private")
    try:
        file.copy_permissions(like)
    finally:
        file.close()


def _write_file(copy: "_Copy", file_system: FileSystem, path: str, like: File | None, time: str) -> Iterator[Progress]:
    file = file_system.open(path, "new" if like is None else "private")
    try:
        if like is not None:
            file.copy_permissions(like)
        new_file = FileStorage.file_format.new_file(file, time)
        yield from new_file.write_base(copy.records(), copy.count, copy.records_size, copy.count - 1)
        file.sync()
    finally:
        file.close()


def _write_storage(copy: "_Copy", storage: Storage) -> None:
    try:
        storage.take_records(copy.records())
    finally:
        storage.close()


class _Copy:
    """The records under their new oids, kept in `spool`, an empty file."""

    def __init__(self, source: Storage, spool: Spool) -> None:
        self._source = source
        self._spool = spool
        self._new_oids: dict[bytes, bytes] = {}
        self._sizes: list[int] = []

    @property
    def count(self) -> int:
        """The number of objects."""
        return len(self._sizes)

    @property
    def records_size(self) -> int:
        """The bytes of all records."""
        return sum(self._sizes)

    def read(self) -> Iterator[Progress]:
        """Read the source, breadth first, and renumber what is read."""
        if not self._source.has_record(ROOT_OID):
            return
        self._give_number(ROOT_OID)
        try:
            for oid, record in self._source.gen_oid_record(ROOT_OID):
                self._take(oid, record)
                if self.count % STEP_RECORDS == 0:
                    yield Progress("read", self.count, len(self._new_oids))
        except DurusKeyError as error:
            missing = format_oid(error.args[0])
            raise FormatError(
                f"a reference leads to oid {missing}, which does not exist, so nothing is copied; remove it first"
            ) from error

    def _take(self, oid: bytes, record: bytes) -> None:
        _, data, refs = unpack_record(record)
        for ref in split_oids(refs):
            self._give_number(ref)
        try:
            new_data = renumber_references(data, self._new_oid)
        except RecordError as error:
            raise RecordError(f"the record of oid {format_oid(oid)}: {error}; nothing is copied") from error
        new_oid = self._new_oids[oid]
        new_record = pack_record(
            new_oid, new_data, join_refs(new_oid, [self._new_oid(ref) for ref in split_oids(refs)])
        )
        self._sizes.append(len(new_record))
        self._spool.write(new_record)

    def _give_number(self, oid: bytes) -> None:
        self._new_oids.setdefault(oid, oid_from_int(len(self._new_oids)))

    def _new_oid(self, oid: bytes) -> bytes:
        try:
            return self._new_oids[oid]
        except KeyError:
            raise RecordError(f"its refs lack the oid {format_oid(oid)}, to which its state refers") from None

    def records(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield (oid, record) for all records, in the order of their oids."""
        self._spool.rewind()
        for number, size in enumerate(self._sizes):
            yield oid_from_int(number), self._spool.read(size)
