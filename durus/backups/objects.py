"""A backup in an object store: the same names and bytes as in a folder. Statements BACKUP-50 to BACKUP-53.

An object store has no lock, and no file that grows: an object appears as a whole. So a segment is collected beside the
database, checked, and uploaded; and the manifest is replaced only if it is the one that this backup has read.

Why nothing that a manifest names is ever removed: each segment has a name that no other one has. A backup removes only
segments that it has seen before it replaced the manifest, and that the new manifest does not name. A backup that owns
one of these has begun before, so it can't replace the manifest any more.
"""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from typing import IO, NamedTuple, Protocol

from durus.backups.manifest import SEGMENT_NAME, Manifest, Segment, pack_manifest, parse_manifest, unique_segment_name
from durus.backups.target import MANIFEST, check_is_new, missing, no_backup, segment_view
from durus.error import LockedError
from durus.files.file import ReadableFile, os_errors_as, temporary_folder

_READ_SIZE = 1 << 22
"""How much one request reads of a segment, in bytes."""


class Version(NamedTuple):
    """Tells the successive contents of an object apart, as far as its store can."""

    e_tag: str | None
    number: str | None


class ReplacedError(Exception):
    """An object no longer has the version that was expected."""


class ObjectStore(Protocol):
    """Objects under a prefix of a bucket. All calls raise ObjectStoreError if the store can't be reached or refuses."""

    @property
    def url(self) -> str:
        """The address of the prefix, without a slash at its end."""

    def get(self, name: str) -> tuple[bytes, Version] | None:
        """Return an object and its version, None if it does not exist."""

    def size(self, name: str) -> int | None:
        """Return the number of bytes of an object, None if it does not exist."""

    def read_at(self, name: str, offset: int, size: int) -> bytes | None:
        """Return `size` bytes of an object from `offset`, which it has; None if it does not exist."""

    def put(self, name: str, file: IO[bytes]) -> None:
        """Make an object of a file, from its beginning to its end; no part of it can be seen before it is complete."""

    def replace(self, name: str, data: bytes, version: Version | None) -> Version:
        """Replace an object if it has this version, or make it if that is None; return the new version.

        ReplacedError if it has another one. A store that can't tell replaces the object.
        """

    def names(self) -> list[str]:
        """Return the names of the objects directly under the prefix."""

    def remove(self, names: list[str]) -> None:
        """Remove objects, some of which may be gone already."""


class ObjectTarget:
    """A prefix in an object store."""

    def __init__(self, store: ObjectStore) -> None:
        self.path = store.url
        self._store = store
        self._version: Version | None = None
        """The version of the manifest that this backup continues."""

    def read_manifest(self) -> Manifest:
        found = self._find_manifest()
        if found is None:
            self._store.names()  # raises if there is no such bucket
            raise no_backup(self.path)
        return found[0]

    def _find_manifest(self) -> tuple[Manifest, Version] | None:
        found = self._store.get(MANIFEST)
        if found is None:
            return None
        data, version = found
        return parse_manifest(data, f"{self.path}/{MANIFEST}"), version

    def open_segment(self, segment: Segment) -> ReadableFile:
        path = f"{self.path}/{segment.name}"
        size = self._store.size(segment.name)
        if size is None:
            raise missing(path)
        return segment_view(_ObjectFile(self._store, segment.name, size), segment)

    @contextlib.contextmanager
    def locked(self, may_begin: bool) -> Iterator[Manifest]:
        """Read the manifest, and note its version."""
        found = self._find_manifest()
        if found is None:
            names = self._store.names()
            if MANIFEST in names:  # another backup has just begun here
                raise self._overtaken()
            check_is_new(self.path, names, may_begin)
            found = Manifest(), self._write_manifest(Manifest(), None)
        manifest, self._version = found
        yield manifest

    def create_part(self) -> "_UploadedPart":
        return _UploadedPart(self._store)

    def replace_manifest(self, manifest: Manifest) -> None:
        used = manifest.segments()
        unused = [name for name in self._store.names() if SEGMENT_NAME.fullmatch(name) and name not in used]
        self._version = self._write_manifest(manifest, self._version)
        if unused:
            self._store.remove(unused)

    def _write_manifest(self, manifest: Manifest, version: Version | None) -> Version:
        try:
            return self._store.replace(MANIFEST, pack_manifest(manifest), version)
        except ReplacedError as replaced:
            # A request whose answer was lost is sent again, and then finds what it has written itself.
            found = self._find_manifest()
            if found is not None and found[0] == manifest:
                return found[1]
            raise self._overtaken() from replaced

    def _overtaken(self) -> LockedError:
        error = LockedError(errno.EWOULDBLOCK, "another backup was made here in the meantime", self.path)
        error.advice = "back up again"
        return error


class _ObjectFile:
    """An object for reading, forward and in large requests."""

    def __init__(self, store: ObjectStore, name: str, size: int) -> None:
        self.path = f"{store.url}/{name}"
        self._store = store
        self._name = name
        self._size = size
        self._start = 0
        self._buffer = b""

    def size(self) -> int:
        return self._size

    def read_at(self, offset: int, size: int) -> bytes:
        size = min(size, self._size - offset)
        if size <= 0:
            return b""
        index = offset - self._start
        if index < 0 or index + size > len(self._buffer):
            data = self._store.read_at(self._name, offset, min(max(size, _READ_SIZE), self._size - offset))
            if data is None:
                raise missing(self.path)
            self._start, self._buffer, index = offset, data, 0
        return self._buffer[index : index + size]

    def close(self) -> None:
        self._buffer = b""


class _UploadedPart:
    """A temporary file that is uploaded as a segment."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        with self._errors_named():
            self._file = tempfile.TemporaryFile()  # noqa: SIM115, it is closed by close()

    @staticmethod
    def _errors_named() -> contextlib.AbstractContextManager[None]:
        return os_errors_as("write a temporary file of the size of the segment", temporary_folder())

    def append(self, data: bytes) -> None:
        with self._errors_named():
            self._file.write(data)

    def publish(self, name: str) -> str:
        unique = unique_segment_name(name, os.urandom(8))
        with self._errors_named():
            self._file.seek(0)  # which also writes what is buffered
        self._store.put(unique, self._file)
        return unique

    def close(self) -> None:
        with self._errors_named():
            self._file.close()
