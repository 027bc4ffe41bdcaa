"""The folder of a backup: reading it, and the few ways to change it.

A file in it never changes once it has its name. A new file gets its name when it is durable, and the manifest is
replaced last. Statements BACKUP-1, BACKUP-6, BACKUP-15 to BACKUP-17, BACKUP-20.
"""

import contextlib
import errno
import os
from collections.abc import Iterator

from durus.backups.manifest import SEGMENT_NAME, Manifest, Segment, pack_manifest, parse_manifest
from durus.error import BackupError, DamageError, FileError, LockedError
from durus.files.file import File, FileSystem, Path, ReadableFile, closing_on_error, path_text

MANIFEST = "manifest"
_LOCK = "lock"
_PART = ".part"
_ADVICE = (
    "the contents of this segment are lost: keep the folder, back up to another one, and restore another generation "
    "or moment of this backup"
)


class MissingSegmentError(DamageError):
    """A segment that the manifest names does not exist; a newer manifest may not name it."""


class Target:
    """The folder `path`, which need not exist yet."""

    def __init__(self, path: Path, file_system: FileSystem) -> None:
        self.path = os.path.abspath(path_text(path))
        self._file_system = file_system

    def _path_of(self, name: str) -> str:
        return os.path.join(self.path, name)

    # Reading

    def read_manifest(self) -> Manifest:
        """Return the manifest. BackupError if there is none, DamageError or FormatError if it can't be read."""
        path = self._path_of(MANIFEST)
        if not self._file_system.exists(path):
            raise BackupError(f"{self.path}: there is no backup here; `durus backup FILE {self.path}` creates one")
        file = self._file_system.open(path, "read")
        try:
            return parse_manifest(file.read_at(0, file.size()), path)
        finally:
            file.close()

    def open_segment(self, segment: Segment) -> ReadableFile:
        """Return a view of the file that was backed up, which has only the bytes of this segment.

        MissingSegmentError if the segment does not exist, DamageError if its size is wrong.
        """
        path = self._path_of(segment.name)
        try:
            file = self._file_system.open(path, "read")
        except FileError as error:
            if error.errno != errno.ENOENT:
                raise
            raise MissingSegmentError(path, 0, "this segment is missing", _ADVICE) from error
        with closing_on_error(file):
            if file.size() != segment.size:
                raise damaged(file.path, 0, f"it has {file.size()} bytes, not the {segment.size} that were written")
        return _SegmentView(file, segment)

    # Writing

    @contextlib.contextmanager
    def locked(self) -> Iterator[Manifest]:
        """Lock the folder, make it a backup if it is not one, and yield the manifest.

        Leftovers of earlier runs are removed. LockedError if another backup is in progress, BackupError if the folder
        has other files and no manifest.
        """
        if not self._file_system.exists(self.path):
            self._file_system.make_directory(self.path)
            self._file_system.sync_directory(self.path)
        manifest_path = self._path_of(MANIFEST)
        if not self._file_system.exists(manifest_path):
            self._check_empty()
        lock_path = self._path_of(_LOCK)
        lock = self._file_system.open(lock_path, "write" if self._file_system.exists(lock_path) else "private")
        try:
            try:
                lock.lock()
            except LockedError as error:
                locked = LockedError(errno.EWOULDBLOCK, "another backup to this folder is in progress", self.path)
                locked.advice = "wait until it has ended"
                raise locked from error
            if not self._file_system.exists(manifest_path):
                self.write_manifest(Manifest())
            manifest = self.read_manifest()
            self.remove_unused(manifest)
            yield manifest
        finally:
            lock.close()

    def _check_empty(self) -> None:
        names = self._file_system.names_beside(self._path_of(MANIFEST))
        if MANIFEST in names:  # another backup has just begun here
            return
        left = sorted(name for name in names if name not in (_LOCK, MANIFEST + _PART))
        if any(SEGMENT_NAME.fullmatch(name) for name in left):
            raise BackupError(f"{self.path}: the manifest of this backup is missing; back up to another folder")
        if left:
            raise BackupError(
                f"{self.path}: this folder is not a backup and has files, such as {left[0]}; give an empty folder"
            )

    def create_part(self) -> File:
        """Return a new file, which will become a segment."""
        return self._create(self._path_of(f"segment{_PART}"))

    def publish(self, part: File, name: str) -> None:
        """Make the file durable, and give it the name of a segment."""
        part.sync()
        self._file_system.replace(part.path, self._path_of(name))
        self._file_system.sync_directory(self._path_of(name))

    def write_manifest(self, manifest: Manifest) -> None:
        """Replace the manifest; return when this is durable."""
        path = self._path_of(MANIFEST)
        part = self._create(path + _PART)
        try:
            part.append(pack_manifest(manifest))
            part.sync()
        finally:
            part.close()
        self._file_system.replace(part.path, path)
        self._file_system.sync_directory(path)

    def remove_unused(self, manifest: Manifest) -> None:
        """Remove segments that the manifest does not name, and files that were not completed. [BACKUP-16]"""
        used = manifest.segments()
        for name in self._file_system.names_beside(self._path_of(MANIFEST)):
            is_segment = SEGMENT_NAME.fullmatch(name) is not None
            if (is_segment and name not in used) or name in (f"segment{_PART}", MANIFEST + _PART):
                self._file_system.remove(self._path_of(name))

    def _create(self, path: str) -> File:
        if self._file_system.exists(path):
            self._file_system.remove(path)
        return self._file_system.open(path, "private")


class _SegmentView:
    """A file that has only the bytes of one segment, at their offsets."""

    def __init__(self, file: File, segment: Segment) -> None:
        self.path = file.path
        self._file = file
        self._start = segment.start
        self._end = segment.end

    def size(self) -> int:
        return self._end

    def read_at(self, offset: int, size: int) -> bytes:
        return self._file.read_at(offset - self._start, size)

    def close(self) -> None:
        self._file.close()


def damaged(path: str, offset: int, problem: str) -> DamageError:
    """Return the error for a segment whose bytes are not those that were written."""
    return DamageError(path, offset, problem, _ADVICE)
